"""Intel NPU images (intel/vpu/vpu_*.bin): a header, a page of versions, and the image; no signature, and no room for one.

The header is `struct vpu_firmware_header` (drivers/accel/ivpu/vpu_boot_api.h). What proves the missing signature is that the image's own
size, with the two pages before it, is the file's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.facts.types import Envelope

if TYPE_CHECKING:
    from auditor.facts.firmware.image import Image

NAME = "intel-npu"
_PAGES = 0x2000
_LOW, _HIGH = 0x8000_0000, 0x1_0000_0000
"""Where the driver lets an image be loaded (drivers/accel/ivpu/ivpu_fw.c, FW_RUNTIME_MIN_ADDR …): the fourth gibibyte of the NPU."""


def recognise(head: bytes) -> bool:
    """Whether an image begins with a header of version 1, format 1, and an address in the NPU's range: it has no magic of its own."""
    if len(head) < 28:
        return False
    version, form, address = struct.unpack_from("<IIQ", head)
    return (version, form) == (1, 1) and _LOW <= address < _HIGH


def parse(image: Image) -> Envelope:
    """An unsigned image, where all of the file is accounted for; nothing is said of one with more or less."""
    (size,) = struct.unpack_from("<I", image.read(0, 28), 16)
    if image.size != _PAGES + size:
        return Envelope(NAME, unchecked=f"the file has {image.size} bytes, its header accounts for {_PAGES + size}")
    return Envelope(NAME, unsigned=f"header, version page and image are the whole file ({_PAGES} + {size} bytes)")

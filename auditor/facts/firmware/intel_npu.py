"""Intel NPU images (intel/vpu/vpu_*.bin): a header, a page of versions, and the image; no signature, and no room for one.

The header is `struct vpu_firmware_header` (drivers/accel/ivpu/vpu_boot_api.h). What proves the missing signature is that the image's own
size, with the two pages before it, is the file's, and that those pages hold the header and a text, and zeros after them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.facts.types import Envelope

if TYPE_CHECKING:
    from auditor.facts.firmware.image import Image

NAME = "intel-npu"
_PAGE = 0x1000
_HEADER = 256
"""Bytes after which the header's page is empty; the structure has 0xd0."""
_LOW, _HIGH = 0x8000_0000, 0xC000_0000
"""Where the driver lets an image be loaded: the third gibibyte of the NPU (drivers/accel/ivpu/ivpu_fw.c, FW_GLOBAL_MEM_START and _END)."""


def recognise(head: bytes) -> bool:
    """Whether an image begins with a header of version 1, format 1, and an address in the NPU's range: it has no magic of its own."""
    if len(head) < 28:
        return False
    version, form, address = struct.unpack_from("<IIQ", head)
    return (version, form) == (1, 1) and _LOW <= address < _HIGH


def parse(image: Image) -> Envelope:
    """An unsigned image, where all of the file is accounted for; nothing is said of one with more or less."""
    pages = image.read(0, 2 * _PAGE)
    (size,) = struct.unpack_from("<I", pages, 16)
    if image.size != 2 * _PAGE + size:
        return Envelope(NAME, unchecked=f"the file has {image.size} bytes, its header accounts for {2 * _PAGE + size}")
    version, _, rest = pages[_PAGE:].partition(b"\0")
    if any(pages[_HEADER:_PAGE]) or any(rest) or not version.isascii():
        return Envelope(NAME, unchecked="there is more in the header's or the version's page than a header and a text")
    return Envelope(NAME, unsigned=f"header, version page and image are the whole file ({2 * _PAGE} + {size} bytes)")

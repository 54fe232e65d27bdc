"""A PKCS#7 signature appended to a file, as to kernel modules (include/linux/module_signature.h, kernel/module_signature.c).

The file ends in a magic text; before it lie 12 bytes, of which the third is 2 for PKCS#7, the last four, big-endian, are the length of the
message before them, and the others are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.firmware import cms
from auditor.facts.types import Envelope

if TYPE_CHECKING:
    from auditor.facts.firmware.image import Image
    from auditor.facts.types import Signature

NAME = "appended-pkcs7"
MAGIC = b"~Module signature appended~\n"
TRAILER = len(MAGIC) + 12


def is_signed(data: bytes) -> bool:
    """Whether the last bytes of a file say that a signature lies before them."""
    return data.endswith(MAGIC)


def read_signature(image: Image) -> Signature:
    """The signature of a file that ends in the magic. Raises ValueError for one that is not understood."""
    end = image.size - TRAILER
    trailer = image.read(max(end, 0), 12)
    length = int.from_bytes(trailer[8:], "big")
    if trailer[:8] != bytes((0, 0, 2, 0, 0, 0, 0, 0)) or not 0 < length < end:
        raise ValueError("an appended signature that is not PKCS#7")
    return cms.signature(image.read(end - length, length), lambda algorithm: image.digest(algorithm, (0, end - length)))


def parse(image: Image) -> Envelope:
    """An image with an appended signature."""
    return Envelope(NAME, signatures=(read_signature(image),))

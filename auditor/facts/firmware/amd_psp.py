"""AMD's signed images (`$PS1`): firmware of the platform security processor, and of XDNA NPUs, which it loads.

A header of 0x100 bytes, the body, an RSA signature over both, of the key that the header names. Layout as in coreboot's util/amdfwtool and
psptool, measured on linux-firmware's images; an encrypted body is signed as it lies.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.facts.firmware.image import uncovered
from auditor.facts.types import Envelope, Signature

if TYPE_CHECKING:
    from auditor.facts.firmware.image import Image

NAME = "amd-psp"
_HEADER = 0x100
_SIGNATURES = {0: (256, "sha256"), 2: (512, "sha384")}
"""Signature type: bytes of the RSA signature, and the digest that goes with it."""


def recognise(head: bytes) -> bool:
    """Whether an image begins with a `$PS1` header."""
    return head[0x10:0x14] == b"$PS1"


def parse(image: Image) -> Envelope:
    """The header's claims, and the body's digest. Raises ValueError where they contradict the file's size."""
    header = image.read(0, _HEADER)
    if len(header) != _HEADER:
        raise ValueError("the header is cut short")
    (size,) = struct.unpack_from("<I", header, 0x14)
    signed, kind = struct.unpack_from("<II", header, 0x30)
    end = _HEADER + size
    if end > image.size:
        raise ValueError(f"{size} signed bytes in a file of {image.size}")
    if not signed:
        return Envelope(NAME, unsigned="its header says that it is not signed")
    if signed != 1 or kind not in _SIGNATURES:
        raise ValueError(f"signature type {kind} is not known")
    length, algorithm = _SIGNATURES[kind]
    value = image.read(end, length)
    if len(value) != length:
        raise ValueError("the signature is cut short")
    recorded = header[0xD0:0x100]  # a SHA-384, or a SHA-256 and zeros
    body = image.digest("sha384" if any(recorded[32:]) else "sha256", (_HEADER, size))
    matches = recorded == body.ljust(len(recorded), b"\0")
    signature = Signature(
        scheme="AMD $PS1",
        signer=header[0x38:0x48].hex(),
        value=value,
        digests=((algorithm, image.digest(algorithm, (0, end))),),
    )
    return Envelope(
        NAME,
        signatures=(signature,),
        mismatched=() if matches or not any(recorded) else ("body",),
        uncovered=uncovered(image, [(0, end + length)]),
    )

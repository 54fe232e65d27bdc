"""Intel's signed manifests (`$CPD` folder with a `$MN2` manifest): audio DSP, IPU, GSC and CSE firmware.

The manifest header holds an RSA key and a signature over the header's first 0x80 bytes and the extensions after it. The extensions hold
the digests of the folder's metadata files (`.met`), and those hold the digests of its modules, some with their bytes reversed; only so does
the signature reach the payload. The folder itself is not signed: it says where things are, and they are then held against their digests.
Layout as in coreboot's and Sound Open Firmware's rimage; measured on linux-firmware's images.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from auditor.facts.firmware.image import uncovered
from auditor.facts.types import Envelope, Signature

if TYPE_CHECKING:
    from auditor.facts.firmware.image import Image, Span

NAME = "intel-css"
_FOLDER = b"$CPD"
_MANIFEST = b"$MN2"
_DIGESTS = {0x10000: "sha256", 0x21000: "sha384"}
"""The manifest header's version, and the digest of its signature: RSA-2048 PKCS#1 v1.5, RSA-3072 PSS."""
_MAX_MANIFEST = 1 << 20
_MAX_ENTRIES = 64
SEARCH = 65_536
"""Bytes from the beginning in which the manifest must start."""


def recognise(head: bytes) -> bool:
    """Whether an image begins with a `$CPD` folder, or has an Intel manifest near its beginning."""
    return head.startswith(_FOLDER) or _manifest(head) is not None


def _manifest(head: bytes) -> int | None:
    """Where the manifest header begins: 0x1c bytes before its magic, with type 4 and Intel's vendor number."""
    at = head.find(_MANIFEST)
    if at < 0x1C:
        return None
    kind, _, _, _, vendor = struct.unpack_from("<5I", head, at - 0x1C)
    return at - 0x1C if (kind, vendor) == (4, 0x8086) else None


def parse(image: Image) -> Envelope:
    """The manifest's signature with the key in the file, and how far it reaches. Raises ValueError where sizes contradict each other."""
    head = image.read(0, SEARCH)
    start = _manifest(head)
    if start is None:
        return Envelope(NAME, unchecked="no manifest with a signature near the beginning")
    _, header_words, version, _, _, _, words = struct.unpack_from("<7I", image.read(start, 0x1C))
    key_words, exponent_words = struct.unpack("<II", image.read(start + 0x78, 8))
    signed_from, end = start + 4 * header_words, start + 4 * words
    if version not in _DIGESTS:
        raise ValueError(f"manifest version {version:#x} is not known")
    if not 0x80 + 4 * (2 * key_words + exponent_words) <= 4 * header_words <= 4 * words <= _MAX_MANIFEST or not 0 < exponent_words <= 4:
        raise ValueError("the manifest's sizes contradict each other")
    manifest = image.read(start, 4 * words)
    if len(manifest) != 4 * words:
        raise ValueError("the manifest is cut short")
    size = 4 * key_words
    modulus = int.from_bytes(manifest[0x80 : 0x80 + size], "little")
    at = 0x80 + size + 4 * exponent_words
    algorithm = _DIGESTS[version]
    spans: tuple[Span, ...] = ((start, 0x80), (signed_from, end - signed_from))
    signature = Signature(
        scheme="Intel CSS",
        signer="",
        value=manifest[at : at + size][::-1],
        digests=((algorithm, image.digest(algorithm, *spans)),),
        key=(modulus, int.from_bytes(manifest[0x80 + size : at], "little")),
    )
    algorithms = tuple(dict.fromkeys((algorithm, *_DIGESTS.values())))  # its own first: most payloads are held by the same
    bound, loose = _payload(image, head, start, manifest[4 * header_words :], algorithms)
    # the key and the signature itself are bound by the signature's verifying at all
    return Envelope(
        NAME,
        signatures=(signature,),
        uncovered=0 if loose else uncovered(image, [(start, end - start), *bound]),
        unchecked=loose,
    )


def _payload(image: Image, head: bytes, start: int, extensions: bytes, algorithms: tuple[str, ...]) -> tuple[list[Span], str]:
    """The spans of the folder that the manifest's digests cover, and what they do not cover, in words."""
    folder = head.rfind(_FOLDER, 0, start + 1)
    if folder < 0:
        return [], "the manifest is not in a folder that lists what it covers"
    entries = _entries(head, folder)
    covered: list[Span] = [(folder, 16 + 24 * len(entries))]
    metadata = {name: image.read(*span) for name, span in entries.items() if name.endswith(".met") and span[1] <= _MAX_MANIFEST}
    for name, data in metadata.items():
        if not _holds(extensions, data):
            return [], f"the manifest has no digest of {name!r} that is understood"
        covered.append(entries[name])
    for name, span in entries.items():
        if name.endswith((".man", ".met")):
            continue
        known = b"".join(metadata.values())
        if not any(each in known or each[::-1] in known for each in (image.digest(algorithm, span) for algorithm in algorithms)):
            return [], f"no digest of {name!r} that is understood"
        covered.append(span)
    return covered, "" if len(covered) > 1 else "the folder names nothing beside the manifest"


def _entries(head: bytes, folder: int) -> dict[str, Span]:
    """The folder: a header with the number of entries and its own length, then entries of name, offset and length."""
    count, length = struct.unpack_from("<I", head, folder + 4)[0], head[folder + 10]
    if not 0 < count <= _MAX_ENTRIES or length not in {16, 20}:
        raise ValueError(f"a folder of {count} entries")
    found: dict[str, Span] = {}
    for at in range(folder + length, folder + length + 24 * count, 24):
        name, offset, size = struct.unpack_from("<12sII", head, at)
        found[name.rstrip(b"\0").decode("ascii", "backslashreplace")] = (folder + (offset & 0x1FFFFFF), size)
    return found


def _holds(data: bytes, content: bytes) -> bool:
    """Whether `data` holds a digest of `content`, in either order of bytes."""
    digests = [hashlib.new(each, content).digest() for each in ("sha256", "sha384")]
    return any(each in data or each[::-1] in data for each in digests)

"""ELF images, and Qualcomm's signed ones (MBN): a hash segment holds a digest of every other segment, and a signature over those.

Program headers whose flags say so mark the hash segment; its header (versions 3 to 7) has the lengths of what follows: metadata, the table
of digests, and for the chip maker (QTI) and the device maker (OEM) a signature and a chain of certificates each. Signed are the header, the
metadata and the table. Layout as in Linaro's qtestsign and measured on linux-firmware's images; loaded by
drivers/soc/qcom/mdt_loader.c and drivers/accel/qaic/sahara.c, which verify nothing themselves.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import TYPE_CHECKING

from auditor.facts.firmware import der, elf
from auditor.facts.firmware.image import Split, uncovered
from auditor.facts.types import Envelope, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.firmware.elf import Segment
    from auditor.facts.firmware.image import Image, Span

NAME = "elf"
SIGNED = "qualcomm-mbn"
_HASH_SEGMENT = 2
"""The type, in bits 24 to 26 of a segment's flags, of the hash segment."""

_FIELDS = {
    # words of the header: where the sizes of (metadata…), table, and (signature, chain) of QTI and OEM lie
    3: (10, (), 5, None, (7, 9)),
    5: (10, (), 5, (2, 3), (7, 9)),
    6: (12, (10, 11), 5, (2, 3), (7, 9)),
    7: (10, (2, 3, 4), 5, (6, 7), (8, 9)),
}
_ALGORITHMS = {20: "sha1", 32: "sha256", 48: "sha384"}
_MAX_HASH_SEGMENT = 1 << 20
_MAX_SEGMENTS = 128
_MAX_CERTIFICATES = 16
_HARDWARE_OR_SOFTWARE = re.compile(rb"0[12] ([0-9A-Fa-f]{16}) (SW_ID|HW_ID)")


def recognise(head: bytes) -> bool:
    """Whether an image is an ELF file."""
    return head.startswith(b"\x7fELF")


def parse(image: Image) -> Envelope:
    """The signatures of an image with a hash segment; of another, whether anything in it could be one."""
    header = elf.read_header(image.read)
    segments = elf.read_segments(image.read, header)
    marked = [segment for segment in segments if segment.flags >> 24 & 7 == _HASH_SEGMENT and segment.size]
    if not marked:
        return _plain(image, header, segments)
    if len(marked) > 1 or len(segments) > _MAX_SEGMENTS or marked[0].size > _MAX_HASH_SEGMENT:
        raise ValueError(f"{len(marked)} hash segments among {len(segments)}")
    return _signed(image, segments, marked[0])


def _plain(image: Image, header: elf.Header, segments: tuple[Segment, ...]) -> Envelope:
    """An ELF file without a hash segment: unsigned where its own headers account for every byte that is no padding."""
    parts = [(each.offset, each.size) for each in segments]
    parts += [(each.offset, each.size) for each in elf.read_sections(image.read, header)]
    loose = uncovered(image, [*header.tables, *parts])
    if loose:
        return Envelope(NAME, unchecked=f"{loose} bytes belong to no header, segment or section; a signature may lie there")
    return Envelope(NAME, unsigned="no hash segment, and every byte belongs to a header, a segment or a section")


def _hashes(image: Image, segments: tuple[Segment, ...], marked: Segment) -> tuple[bytes, int]:
    """The hash segment, and where in the file it lies: of a split image right behind the headers, or (-1) in a file of its own."""
    if marked.offset + marked.size <= image.size:
        return image.read(marked.offset, marked.size), marked.offset
    if segments[0].size + marked.size == image.size:
        return image.read(segments[0].size, marked.size), segments[0].size
    part = image.part(segments.index(marked)) if isinstance(image, Split) else None
    return (part.read(0, marked.size), -1) if part else (b"", -1)


def _signed(image: Image, segments: tuple[Segment, ...], marked: Segment) -> Envelope:
    data, place = _hashes(image, segments, marked)
    if len(data) != marked.size or len(data) < 48:
        raise ValueError("the hash segment is cut short")
    version = struct.unpack_from("<I", data, 4)[0]
    if version not in _FIELDS:
        raise ValueError(f"hash segment version {version} is not known")
    words, metadata, table, *signers = _FIELDS[version]
    sizes = struct.unpack_from(f"<{words}I", data)
    start = 4 * words + sum(sizes[each] for each in metadata)
    end = start + sizes[table]
    width, rest = divmod(sizes[table], len(segments))
    if rest or width not in _ALGORITHMS or end > len(data):
        raise ValueError(f"a table of {sizes[table]} bytes for {len(segments)} segments")
    digests = [data[at : at + width] for at in range(start, end, width)]
    algorithm = _ALGORITHMS[width]
    found = tuple(_signatures(data, version, sizes, end, signers, algorithm))
    covered, mismatched, elsewhere = _compare(image, segments, marked, digests, algorithm)
    # the rest of the hash segment is padding, or a place to hide in
    if place >= 0:
        covered += [(place, end), *((place + at, length) for _, (at, length) in found)]
    return Envelope(
        SIGNED,
        signatures=tuple(signature for signature, _ in found),
        mismatched=mismatched,
        uncovered=uncovered(image, covered),
        unchecked=f"the bytes of {', '.join(elsewhere)} are not in this file, nor in one of their own beside it" if elsewhere else "",
    )


def _compare(
    image: Image, segments: tuple[Segment, ...], marked: Segment, digests: list[bytes], algorithm: str
) -> tuple[list[Span], tuple[str, ...], tuple[str, ...]]:
    """The spans that have the digest that the table has for them, the segments that have another, and those that lie elsewhere.

    Zeros stand for no digest.
    """
    covered: list[Span] = []
    mismatched = []
    elsewhere = []
    inside = [segment for segment in segments if segment.offset + segment.size <= image.size]
    if sum(segment.size for segment in inside) > 2 * image.size:
        raise ValueError("segments that overlap")
    for number, (segment, digest) in enumerate(zip(segments, digests, strict=True)):
        if segment is marked or not segment.size or not any(digest):
            continue
        if segment in inside:
            if image.digest(algorithm, (segment.offset, segment.size)) != digest:
                mismatched.append(f"segment {number}")
            else:
                covered.append((segment.offset, segment.size))
            continue
        part = image.part(number) if isinstance(image, Split) else None
        if part is None:
            elsewhere.append(f"segment {number}")
        elif part.size != segment.size or part.digest(algorithm, (0, segment.size)) != digest:
            mismatched.append(f"segment {number}")
    return covered, tuple(mismatched), tuple(elsewhere)


def _signatures(
    data: bytes, version: int, sizes: tuple[int, ...], end: int, signers: list[tuple[int, int] | None], algorithm: str
) -> Iterator[tuple[Signature, Span]]:
    """The signatures after the table, each before its chain: first QTI's, then the device maker's. With each, where they lie in `data`."""
    at = end
    for owner, fields in zip(("QTI", "OEM"), signers, strict=True):
        if fields is None:
            continue
        value, chain = (data[at : at + sizes[fields[0]]], data[at + sizes[fields[0]] : at + sizes[fields[0]] + sizes[fields[1]]])
        if len(value) + len(chain) != sizes[fields[0]] + sizes[fields[1]]:
            raise ValueError("a signature or its chain is cut short")
        if value or chain:
            certificates = tuple(_certificates(chain))
            signature = Signature(
                scheme=f"MBN v{version}",
                signer=owner,
                value=value,
                digests=tuple(_digests(data[:end], certificates[0] if certificates else b"", algorithm)),
                chain=certificates,
            )
            yield signature, (at, len(value) + sum(map(len, certificates)))
        at += len(value) + len(chain)


def _certificates(chain: bytes) -> Iterator[bytes]:
    """The DER certificates of a chain, leaf first; it ends in padding."""
    for _ in range(_MAX_CERTIFICATES):
        if not chain.startswith(b"\x30"):
            break
        one = der.first(chain)
        yield one.whole
        chain = chain[len(one.whole) :]


def _digests(message: bytes, leaf: bytes, likely: str) -> Iterator[tuple[str, bytes]]:
    """The digests that a signature over `message` may be of: plain, or keyed with the hardware and software ids in the leaf's subject.

    Version 3 images sign H(HW ^ 0x5c… || H(SW ^ 0x36… || H(message))), HW and SW being 8 bytes of `01 … SW_ID`, `02 … HW_ID`.
    The likely algorithm, the table's, comes first: to try a wrong one takes as long as to verify.
    """
    ids = {word: bytes.fromhex(number.decode("ascii")) for number, word in _HARDWARE_OR_SOFTWARE.findall(leaf)}
    for algorithm in dict.fromkeys((likely, "sha256", "sha384", "sha1")):
        plain = hashlib.new(algorithm, message).digest()
        yield algorithm, plain
        if len(ids) == 2:
            inner = hashlib.new(algorithm, bytes(byte ^ 0x36 for byte in ids[b"SW_ID"]) + plain).digest()
            yield algorithm, hashlib.new(algorithm, bytes(byte ^ 0x5C for byte in ids[b"HW_ID"]) + inner).digest()

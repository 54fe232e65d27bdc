"""Firmware images inside another file: in the data of a kernel module, where nothing that looks at firmware files sees them.

An image is one where its format's own reader takes it, or where it unpacks: a few bytes that look like a beginning are not enough.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.facts.firmware import amd_psp, elf, intel_css
from auditor.facts.firmware.image import Bytes
from auditor.facts.unpack import MAGIC, BadArchive, beginning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CANDIDATES = 256
WINDOW = 8 << 20
"""Bytes that are looked at of one image."""

SMALLEST = 4096
"""Bytes that packed data must unpack to, at least."""

_DEVICE_TREE = struct.Struct(">10I")


def find_images(data: bytes, apart: tuple[tuple[int, int], ...] = ()) -> tuple[str, ...]:
    """The images inside a file, not counting the file itself: `format at offset`, in order. What is too much to look at is named last.

    Images that begin in the spans `apart` (offset, length) are none: what is there for debuggers is packed as well, and never loaded.
    """
    found: list[str] = []
    end = 1
    places = sorted((at - before, magic) for magic, (_, before, _) in _KINDS.items() for at in _places(data, magic, apart))
    for start, magic in places[:MAX_CANDIDATES]:
        name, _, size_of = _KINDS[magic]
        size = size_of(data[start : start + WINDOW]) if start >= end else 0
        if size:
            found.append(f"{name} at {start}")
            end = start + size
    if len(places) > MAX_CANDIDATES:
        found.append(f"more beginnings of images than are looked at, from {places[MAX_CANDIDATES][0]}")
    return tuple(found)


def _places(data: bytes, magic: bytes, apart: tuple[tuple[int, int], ...]) -> Iterator[int]:
    """Where some bytes are, after the file's own beginning."""
    at, left = data.find(magic, 1), MAX_CANDIDATES
    while at >= 0 and left >= 0:
        beyond = max((offset + length for offset, length in apart if offset <= at < offset + length), default=0)
        if not beyond:
            yield at
            left -= 1
        at = data.find(magic, max(at + 1, beyond))


def _elf(data: bytes) -> int:
    """An ELF file with segments or sections; its size as far as those tell."""
    image = Bytes(data)
    try:
        header = elf.read_header(image.read)
        spans = [(each.offset, each.size) for each in elf.read_segments(image.read, header)]
        spans += [(each.offset, each.size) for each in elf.read_sections(image.read, header)]
    except ValueError:
        return 0
    return max((offset + size for offset, size in (*spans, *header.tables)), default=0) if header.machine and spans else 0


def _amd(data: bytes) -> int:
    try:
        envelope = amd_psp.parse(Bytes(data))
    except ValueError:
        return 0
    return 0x100 + int.from_bytes(data[0x14:0x18], "little") if envelope.signatures else 0


def _intel(data: bytes) -> int:
    try:
        envelope = intel_css.parse(Bytes(data))
    except (ValueError, struct.error, IndexError):
        return 0
    return intel_css.SEARCH if envelope.signatures else 0


def _device_tree(data: bytes) -> int:
    """A flattened device tree, which a FIT image is (Devicetree Specification, 5.2): its header's offsets lie inside it."""
    if len(data) < _DEVICE_TREE.size:
        return 0
    _, total, structure, strings, reserved, version, last, *_ = _DEVICE_TREE.unpack_from(data)
    inside = all(_DEVICE_TREE.size <= each <= total for each in (structure, strings, reserved))
    return int(total) if inside and last <= version <= 32 and total <= len(data) else 0


def _packed(data: bytes) -> int:
    try:
        return 1 if len(beginning(data, SMALLEST)) >= SMALLEST else 0
    except BadArchive:
        return 0


_KINDS: dict[bytes, tuple[str, int, Callable[[bytes], int]]] = {
    b"\x7fELF": ("elf", 0, _elf),
    b"$PS1": (amd_psp.NAME, 0x10, _amd),
    b"$CPD": (intel_css.NAME, 0, _intel),
    b"\xd0\x0d\xfe\xed": ("device tree or FIT", 0, _device_tree),
    **dict.fromkeys(MAGIC, ("packed data", 0, _packed)),
}
"""By the bytes that tell it: the name of what is found, how far before them it begins, and its size in bytes, 0 where it is none."""

"""The headers of an ELF file (System V ABI, chapters 4 and 5), read under bounds and without trust.

Kernel modules, Qualcomm's images and plain firmware are ELF files for other machines, of either byte order and size; nothing
here loads, relocates or interprets them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[int, int], bytes]
    """`(offset, length)` to bytes of a file; fewer where it ends before."""

MAX_SEGMENTS = 4096
MAX_SECTIONS = 65_535
MAX_NAMES = 4 << 20
"""Bytes of the table of section names; the largest in use have a few kilobytes."""

_SHT_NOBITS = 8
_SHF_ALLOC = 2


class BadElf(ValueError):  # noqa: N818  # the one refusal of this module
    """Not an ELF file, or one whose headers contradict themselves or its size."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header: `kind` is p_type; offset and size of its bytes in the file."""

    kind: int
    flags: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header; `size` is 0 for one without bytes in the file."""

    name: bytes
    offset: int
    size: int
    flags: int = 0

    @property
    def is_debugging(self) -> bool:
        """Whether it is for debuggers, and never loaded."""
        return self.name.startswith((b".debug", b".zdebug", b".gnu_debug")) and not self.flags & _SHF_ALLOC


@dataclass(frozen=True, slots=True)
class Header:
    """An ELF header. `tables` are the (offset, size) of the header itself, the program headers and the section headers."""

    bits: int
    order: str
    kind: int
    machine: int
    tables: tuple[tuple[int, int], ...]
    program: tuple[int, int]
    sections: tuple[int, int, int]


def read_header(read: Reader) -> Header:
    """The ELF header at the beginning of a file. Raises BadElf."""
    head = read(0, 64)
    if head[:4] != b"\x7fELF" or len(head) < 52 or head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise BadElf("no ELF header")
    bits, order = 32 * head[4], "<" if head[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", head, 16)
    try:
        program, sections = struct.unpack_from(order + ("QQ" if bits == 64 else "II"), head, 32 if bits == 64 else 28)
        own, each, count, width, number, names = struct.unpack_from(order + "6H", head, 52 if bits == 64 else 40)
    except struct.error:
        raise BadElf("the ELF header is cut short") from None
    if count > MAX_SEGMENTS:
        raise BadElf(f"{count} program headers")
    if (count and each != (56 if bits == 64 else 32)) or (number and width != (64 if bits == 64 else 40)):
        raise BadElf(f"headers of {each} and {width} bytes")
    tables = ((0, own), (program, each * count), (sections, width * number))
    return Header(bits, order, kind, machine, tables, (program, count), (sections, number, names))


def read_segments(read: Reader, header: Header) -> tuple[Segment, ...]:
    """The program headers. Raises BadElf where the file ends before them."""
    offset, count = header.program
    form = struct.Struct(header.order + ("IIQQQQQQ" if header.bits == 64 else "8I"))
    table = read(offset, form.size * count)
    if len(table) != form.size * count:
        raise BadElf("the file ends before its program headers do")
    if header.bits == 64:
        return tuple(Segment(kind, flags, at, size) for kind, flags, at, _, _, size, _, _ in form.iter_unpack(table))
    return tuple(Segment(kind, flags, at, size) for kind, at, _, _, size, _, flags, _ in form.iter_unpack(table))


def read_sections(read: Reader, header: Header) -> tuple[Section, ...]:
    """The section headers, with names where the file has a table of them. Raises BadElf where the file ends before them."""
    offset, count, names_index = header.sections
    form = struct.Struct(header.order + ("IIQQQQIIQQ" if header.bits == 64 else "10I"))
    table = read(offset, form.size * count)
    if len(table) != form.size * count:
        raise BadElf("the file ends before its section headers do")
    rows = [(row[0], row[1], row[4], row[5], row[2]) for row in form.iter_unpack(table)]
    names = b""
    if names_index < count:
        _, _, at, size, _ = rows[names_index]
        if size > MAX_NAMES:
            raise BadElf(f"{size} bytes of section names")
        names = read(at, size)
    return tuple(
        Section(names[name : name + 256].partition(b"\0")[0], at, 0 if kind == _SHT_NOBITS else size, flags)
        for name, kind, at, size, flags in rows
    )

"""What the dynamic linker reads of an ELF file, read as it does: headers, segments, dynamic section, notes.

Sections are never looked at: the linker does not need them, and a stripped or a hostile file may have none, or false ones. A file costs a
few ranged reads, whatever its size. Sources: the System V gABI (chapters 4 and 5), glibc elf/dl-load.c and elf/dl-dst.h, and for
`.note.dlopen` the UAPI Group's "ELF dlopen metadata" specification.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Read = Callable[[int, int], bytes]
    """`read(offset, length)`: the bytes of the file there, fewer where it ends."""

HEAD = 4096
"""Bytes of the first read: the file header, the program headers and mostly the notes."""

MAX_SEGMENTS = 1024
MAX_DYNAMIC = 1 << 20
MAX_STRINGS = 64 << 20
MAX_NOTES = 1 << 20
MAX_NAMES = 4096
"""Dynamic entries that name a file."""

MAX_NAME = 4096
"""PATH_MAX: no string that names files is longer, but for a list of folders."""

MAX_LIST = 1 << 16

_GAP = 4096
"""Strings that lie closer than this are read at once."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_DT_FLAGS_1, _DT_AUXILIARY, _DT_FILTER = 0x6FFFFFFB, 0x7FFFFFFD, 0x7FFFFFFF
_DF_1_NODEFLIB = 0x800
_NAMING = frozenset({_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH, _DT_AUXILIARY, _DT_FILTER})

_NOTE_OWNER = b"FDO\0"
_NOTE_DLOPEN = 0x407C0C0A

X86, ARM, X86_64, HEXAGON, AARCH64, RISCV = 3, 40, 62, 164, 183, 243
"""e_machine of what ChromeOS runs on, and of one accelerator whose code is shipped as shared objects."""


MAGIC = b"\x7fELF"
LOADABLE = frozenset({2, 3})
"""e_type of executables and shared objects."""


class BadElf(ValueError):  # noqa: N818  # what is wrong is the file
    """The file is not an ELF file that the dynamic linker would load; the text says what is wrong with it."""


class NotElf(BadElf):
    """The file does not begin as an ELF file at all."""


class Need(NamedTuple):
    """A name that the file asks the linker for, or alternatives; `optional` where the file says that it can do without."""

    names: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Elf:
    """An ELF file as the dynamic linker sees it; texts are file names, with surrogate escapes for bytes that are not UTF-8."""

    bits: int
    little: bool
    machine: int
    type: int
    loaded: int
    """Bytes of the file that PT_LOAD segments map."""
    memory: int
    """Bytes of memory that they take."""
    soname: str = ""
    needed: tuple[str, ...] = ()
    filters: tuple[Need, ...] = ()
    """DT_FILTER, and DT_AUXILIARY, which is optional."""
    dlopen: tuple[Need, ...] = ()
    """The features of `.note.dlopen`, optional unless their priority is `required`."""
    rpath: str = ""
    """DT_RPATH; empty where there is a DT_RUNPATH, which makes the linker ignore it."""
    runpath: str = ""
    no_default: bool = False
    """DF_1_NODEFLIB: the default folders are not searched."""

    @property
    def kind(self) -> tuple[int, bool, int]:
        """Class, byte order and machine: the linker passes over files whose kind is not its own."""
        return self.bits, self.little, self.machine


class _Segment(NamedTuple):
    type: int
    offset: int
    address: int
    size: int
    memory: int


def read_elf(read: Read, size: int) -> Elf:
    """The ELF file of `size` bytes behind `read`; raises BadElf, and whatever `read` raises."""
    head, bits, order, piece = _head(read, size)
    kind, machine = struct.unpack_from(order + "HH", head, 16)
    segments = _segments(head, bits, order, piece)
    loads = [each for each in segments if each.type == _PT_LOAD]
    for each in loads:
        if each.offset + each.size > size:
            raise BadElf(f"PT_LOAD at {each.offset} + {each.size}, beyond the file's {size} bytes (truncated?)")
    entries = _dynamic(segments, loads, bits, order, piece)
    strings = _strings(entries, loads, piece)
    named = [(tag, strings[value]) for tag, value in entries if tag in _NAMING]
    last, values = dict(named), dict(entries)
    return Elf(
        bits=bits,
        little=order == "<",
        machine=machine,
        type=kind,
        loaded=sum(each.size for each in loads),
        memory=sum(each.memory for each in loads),
        soname=last.get(_DT_SONAME, ""),
        needed=tuple(name for tag, name in named if tag == _DT_NEEDED),
        filters=tuple(Need((name,), tag == _DT_AUXILIARY) for tag, name in named if tag in {_DT_FILTER, _DT_AUXILIARY}),
        dlopen=tuple(_dlopen_notes(segments, order, piece)),
        rpath="" if _DT_RUNPATH in values else last.get(_DT_RPATH, ""),
        runpath=last.get(_DT_RUNPATH, ""),
        no_default=bool(values.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
    )


def read_interpreter(read: Read, size: int) -> str:
    """The dynamic linker that a program asks the kernel for (PT_INTERP); empty for none. Raises as `read_elf` does."""
    head, bits, order, piece = _head(read, size)
    segment = next((each for each in _segments(head, bits, order, piece) if each.type == _PT_INTERP), None)
    if segment is None:
        return ""
    if segment.size > MAX_NAME:
        raise BadElf(f"a PT_INTERP of {segment.size} bytes; at most {MAX_NAME} are read")
    return os.fsdecode(piece(segment.offset, segment.size, "PT_INTERP").partition(b"\0")[0])


def _head(read: Read, size: int) -> tuple[bytes, int, str, Callable[[int, int, str], bytes]]:
    """The first bytes, the class in bits, struct's letter of the byte order, and what reads a piece of the file."""
    head = read(0, HEAD)
    if len(head) < 52 or not head.startswith(MAGIC):
        raise NotElf("no ELF header")
    if head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise BadElf(f"ELF class {head[4]}, byte order {head[5]}")

    def piece(offset: int, length: int, what: str) -> bytes:
        """Exactly these bytes of the file."""
        if offset + length > size:
            raise BadElf(f"{what} at {offset} + {length}, beyond the file's {size} bytes")
        found = head[offset : offset + length] if offset + length <= len(head) else read(offset, length)
        if len(found) != length:
            raise BadElf(f"{what} at {offset}: {len(found)} of {length} bytes")
        return found

    return head, 32 * head[4], "<" if head[5] == 1 else ">", piece


def _segments(head: bytes, bits: int, order: str, piece: Callable[[int, int, str], bytes]) -> list[_Segment]:
    if bits == 64 and len(head) < 64:
        raise BadElf("a 64-bit ELF header has 64 bytes")
    offset = struct.unpack_from(order + ("Q" if bits == 64 else "I"), head, 32 if bits == 64 else 28)[0]
    entry_size, count = struct.unpack_from(order + "HH", head, 54 if bits == 64 else 42)
    entry = struct.Struct(order + ("IIQQQQQQ" if bits == 64 else "IIIIIIII"))
    if not count:
        return []
    if entry_size != entry.size:
        raise BadElf(f"e_phentsize is {entry_size}, not {entry.size}")
    if count > MAX_SEGMENTS:
        raise BadElf(f"{count} program headers; at most {MAX_SEGMENTS} are read")
    chosen = itemgetter(0, 2, 3, 5, 6) if bits == 64 else itemgetter(0, 1, 2, 4, 5)
    found = map(chosen, entry.iter_unpack(piece(offset, count * entry.size, "program headers")))
    return [_Segment(*fields) for fields in found if fields[0] in {_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE}]


def _offset(loads: Sequence[_Segment], address: int) -> tuple[int, int] | None:
    """Where in the file the byte at an address lies, and how many follow it there; a later segment is mapped over an earlier one."""
    for each in reversed(loads):
        if each.address <= address < each.address + each.size:
            inside = address - each.address
            return each.offset + inside, each.size - inside
    return None


def _dynamic(
    segments: Sequence[_Segment], loads: Sequence[_Segment], bits: int, order: str, piece: Callable[[int, int, str], bytes]
) -> list[tuple[int, int]]:
    """The (tag, value) entries up to DT_NULL; none for a static file. The linker goes by the segment's address, and takes the last one."""
    segment = next((each for each in reversed(segments) if each.type == _PT_DYNAMIC), None)
    if segment is None:
        return []
    place = _offset(loads, segment.address)
    if place is None or place[0] != segment.offset or place[1] < segment.size:
        raise BadElf("PT_DYNAMIC is not where its address is mapped")
    entry = struct.Struct(order + ("QQ" if bits == 64 else "II"))
    size = segment.size - segment.size % entry.size
    if size > MAX_DYNAMIC:
        raise BadElf(f"a dynamic section of {size} bytes; at most {MAX_DYNAMIC} are read")
    entries: list[tuple[int, int]] = []
    for tag, value in entry.iter_unpack(piece(segment.offset, size, "dynamic section")):
        if tag == 0:
            return entries
        entries.append((tag, value))
    raise BadElf("the dynamic section has no end")


def _strings(entries: Sequence[tuple[int, int]], loads: Sequence[_Segment], piece: Callable[[int, int, str], bytes]) -> dict[int, str]:
    """The strings that dynamic entries refer to, by their offset in the string table."""
    wanted = sorted({value for tag, value in entries if tag in _NAMING})
    if not wanted:
        return {}
    if len(wanted) > MAX_NAMES:
        raise BadElf(f"{len(wanted)} names in the dynamic section; at most {MAX_NAMES} are read")
    values = dict(entries)
    place = _offset(loads, values.get(_DT_STRTAB, -1))
    if place is None:
        raise BadElf("the dynamic string table is not mapped from the file")
    start, length = place[0], min(place[1], values.get(_DT_STRSZ, 0))
    if length > MAX_STRINGS or wanted[-1] >= length:
        raise BadElf(f"a name at {wanted[-1]} of a dynamic string table of {length} bytes")
    lists = {value for tag, value in entries if tag in {_DT_RPATH, _DT_RUNPATH}}
    found: dict[int, str] = {}
    for near in _runs(wanted):
        first, last = near[0], near[-1]
        end = min(length, last + (MAX_LIST if last in lists else MAX_NAME))
        data = piece(start + first, end - first, "dynamic strings")
        for value in near:
            stop = data.find(b"\0", value - first)
            if stop < 0 or stop - (value - first) >= (MAX_LIST if value in lists else MAX_NAME):
                raise BadElf(f"the dynamic string at {value} has no end")
            found[value] = data[value - first : stop].decode("utf-8", "surrogateescape")
    return found


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Sorted offsets, in runs that lie close to each other."""
    run: list[int] = []
    for each in offsets:
        if run and each - run[-1] > _GAP:
            yield run
            run = []
        run.append(each)
    yield run


def _dlopen_notes(segments: Sequence[_Segment], order: str, piece: Callable[[int, int, str], bytes]) -> Iterator[Need]:
    for segment in segments:
        if segment.type != _PT_NOTE:
            continue
        if segment.size > MAX_NOTES:
            raise BadElf(f"a note segment of {segment.size} bytes; at most {MAX_NOTES} are read")
        notes = piece(segment.offset, segment.size, "notes")
        at = 0
        while at + 12 <= len(notes):
            owner_size, size, kind = struct.unpack_from(order + "III", notes, at)
            owner = notes[at + 12 : at + 12 + owner_size]
            start = at + 12 + _padded(owner_size)
            if start + size > len(notes):
                break
            if owner == _NOTE_OWNER and kind == _NOTE_DLOPEN:
                yield from _features(notes[start : start + size])
            at = start + _padded(size)


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _features(text: bytes) -> Iterator[Need]:
    """The features of a `.note.dlopen`: JSON, an object each with `soname` (a text or a list of alternatives) and `priority`."""
    try:
        document: Any = json.loads(text.rstrip(b"\0"))
    except (ValueError, RecursionError):
        raise BadElf(".note.dlopen does not hold JSON") from None
    for feature in document if isinstance(document, list) else [document]:
        sonames = feature.get("soname") if isinstance(feature, dict) else None
        names = [sonames] if isinstance(sonames, str) else sonames
        if not isinstance(names, list) or not names or not all(map(_is_name, names)):
            raise BadElf('.note.dlopen: expected "soname" to be a name or a list of names')
        yield Need(tuple(names), feature.get("priority") != "required")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) < MAX_NAME and name.isprintable()

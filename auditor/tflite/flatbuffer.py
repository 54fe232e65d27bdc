"""Flatbuffers, read without trust and written by hand: the few shapes that a .tflite file is made of.

The standard library alone. A table is a sequence of fields, known by their slot in the schema.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Sequence

    Data: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"

FILE_IDENTIFIER = b"TFL3"
DATA_ALIGNMENT = 16
"""Of a buffer's content: what the schema's force_align asks for."""
MAX_WORK = 500_000
"""Tables plus vector elements read from one file; a model of 5000 operators needs about a fifth."""
MAX_TEXT = 256
"""Bytes kept of a name; the rest is dropped."""


class BadModel(Exception):  # noqa: N818 - the name that callers read: a bad model, not an error of ours
    """The file is not a TFLite model that may be trusted further. The message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table at its absolute position in the file."""

    at: int
    fields: tuple[int, ...]
    """Absolute position of each field of the vtable, 0 where absent."""

    def field(self, slot: int) -> int:
        """Return the position of a field's content, 0 where the table leaves it out."""
        return self.fields[slot] if slot < len(self.fields) else 0


class Reader:
    """Bounds-checked access to a flatbuffer, with a budget of work."""

    __slots__ = ("budget", "data", "size")

    def __init__(self, data: Data) -> None:
        self.data = data
        self.size = len(data)
        self.budget = MAX_WORK

    def spend(self, work: int) -> None:
        """Take work off the budget; a BadModel where none is left."""
        self.budget -= work
        if self.budget < 0:
            raise BadModel(f"more than {MAX_WORK} tables and elements")

    def bounds(self, at: int, length: int, what: str) -> None:
        """Refuse what does not lie in the file."""
        if at < 0 or length < 0 or at + length > self.size:
            raise BadModel(f"{what} at {at}, {length} bytes, lies outside the file of {self.size} bytes")

    def unpack(self, form: str, at: int, what: str) -> int:
        """Read one integer."""
        self.bounds(at, struct.calcsize(form), what)
        (value,) = struct.unpack_from(form, self.data, at)
        return int(value)

    def table(self, at: int, what: str) -> Table:
        """Read a table's vtable."""
        self.spend(1)
        vtable = at - self.unpack("<i", at, what)
        length = self.unpack("<H", vtable, f"{what} vtable")
        width = self.unpack("<H", vtable + 2, f"{what} vtable")
        if length < 4 or length % 2:
            raise BadModel(f"{what} vtable at {vtable} has the impossible length {length}")
        self.bounds(vtable, length, f"{what} vtable")
        self.bounds(at, width, what)
        self.spend(length // 64)
        offsets = struct.unpack_from(f"<{(length - 4) // 2}H", self.data, vtable + 4)
        if any(offset >= width for offset in offsets if offset):
            raise BadModel(f"{what} at {at} has a field outside its {width} bytes")
        return Table(at, tuple(at + offset if offset else 0 for offset in offsets))

    def scalar(self, table: Table, slot: int, form: str, default: int = 0) -> int:
        """Read an integer field."""
        at = table.field(slot)
        return self.unpack(form, at, "a scalar field") if at else default

    def follow(self, at: int, what: str) -> int:
        """Return the position that the offset at `at` points to."""
        return at + self.unpack("<I", at, what)

    def child(self, table: Table, slot: int, what: str) -> Table | None:
        """Read the table that a field points to."""
        at = table.field(slot)
        return self.table(self.follow(at, what), what) if at else None

    def vector(self, table: Table, slot: int, width: int, what: str) -> tuple[int, int]:
        """Return position and number of a vector's elements, (0, 0) where it is absent."""
        at = table.field(slot)
        if not at:
            return 0, 0
        start = self.follow(at, what)
        count = self.unpack("<I", start, what)
        self.bounds(start + 4, count * width, what)
        return start + 4, count

    def numbers(self, table: Table, slot: int, what: str) -> tuple[int, ...]:
        """Read a vector of 32-bit integers."""
        at, count = self.vector(table, slot, 4, what)
        self.spend(count)
        return struct.unpack_from(f"<{count}i", self.data, at)

    def text(self, table: Table, slot: int, what: str) -> str:
        """Read a string, up to MAX_TEXT bytes of it, escaped where it would not print on one line."""
        at, count = self.vector(table, slot, 1, what)
        text = bytes(self.data[at : at + min(count, MAX_TEXT)]).decode("utf-8", "backslashreplace")
        return text if text.isprintable() else ascii(text)[1:-1]

    def tables(self, table: Table, slot: int, what: str) -> Iterator[Table]:
        """Read a vector of tables, one after the other."""
        at, count = self.vector(table, slot, 4, what)
        self.spend(count)
        for i in range(count):
            yield self.table(self.follow(at + 4 * i, what), f"{what}[{i}]")


class Field(NamedTuple):
    """One field of a table: its slot in the schema, and struct's letter for its type, or `o` for what it points to."""

    slot: int
    kind: str
    value: float


class Builder:
    """Writes a flatbuffer from its end to its start, as offsets only point forward.

    What is written is named by its distance from the end of the file. The layout is this class's own and plain, so that
    the same calls give the same bytes with every Python and every library; nothing holds more than 4-byte fields.
    """

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.vtables: dict[bytes, int] = {}

    def _push(self, content: bytes) -> int:
        self.chunks.append(content)
        self.size += len(content)
        return self.size

    def _align(self, alignment: int, following: int) -> None:
        """Pad so that what begins `following` bytes further on is aligned."""
        self._push(bytes(-(self.size + following) % alignment))

    def tail(self, content: bytes) -> int:
        """Write raw bytes, aligned as a whole file is; only sensible as the first of all."""
        self._align(DATA_ALIGNMENT, len(content))
        return self._push(content)

    def vector(self, count: int, content: bytes, alignment: int = 4) -> int:
        """Write a vector of `count` elements; the first one is aligned."""
        self._align(alignment, len(content))
        self._push(content)
        return self._push(struct.pack("<I", count))

    def int32s(self, values: Sequence[int]) -> int:
        """Write a vector of 32-bit integers."""
        return self.vector(len(values), struct.pack(f"<{len(values)}i", *values))

    def text(self, value: str) -> int:
        """Write a string."""
        content = value.encode()
        return self.vector(len(content), content + b"\0")

    def tables(self, targets: Sequence[int]) -> int:
        """Write a vector of tables already written."""
        length = 4 * len(targets)
        self._align(4, length)
        offsets = (self.size + length - 4 * i - target for i, target in enumerate(targets))
        return self.vector(len(targets), struct.pack(f"<{len(targets)}I", *offsets))

    def table(self, *fields: Field) -> int:
        """Write a table; fields lie in the order given, vtables are shared."""
        places, length = [], 4
        for field in fields:
            width = 4 if field.kind == "o" else struct.calcsize(field.kind)
            length += -length % width
            places.append(length)
            length += width
        self._align(4, length)
        start = self.size + length
        content = bytearray(length)
        slots = [0] * max((field.slot + 1 for field in fields), default=0)
        for place, field in zip(places, fields, strict=True):
            slots[field.slot] = place
            value = start - place - field.value if field.kind == "o" else field.value
            struct.pack_into("<I" if field.kind == "o" else f"<{field.kind}", content, place, value)
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), length, *slots)
        vtable += bytes(-len(vtable) % 4)
        shared = self.vtables.setdefault(vtable, start + len(vtable))
        struct.pack_into("<i", content, 0, shared - start)
        self._push(bytes(content))
        if shared > start:
            self._push(vtable)
        return start

    def buffer(self, content: bytes) -> int:
        """Write TFLite's Buffer; none of it means that its tensor is computed at run time."""
        return self.table(Field(0, "o", self.vector(len(content), content, DATA_ALIGNMENT))) if content else self.table()

    def finish(self, root: int) -> bytes:
        """Return the file."""
        self._align(DATA_ALIGNMENT, 8)
        self._push(struct.pack("<I4s", self.size + 8 - root, FILE_IDENTIFIER))
        return b"".join(reversed(self.chunks))

"""Flatbuffers, read without trust and written by hand: the few shapes that a .tflite file is made of.

Reading needs the standard library alone; writing takes a flatbuffers.Builder from its caller. A table is a sequence of
fields, known by their slot in the schema. Offsets to be written are as the Builder counts them, from the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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
        """Read a string, up to MAX_TEXT bytes of it."""
        at, count = self.vector(table, slot, 1, what)
        return bytes(self.data[at : at + min(count, MAX_TEXT)]).decode("utf-8", "backslashreplace")

    def tables(self, table: Table, slot: int, what: str) -> Iterator[Table]:
        """Read a vector of tables, one after the other."""
        at, count = self.vector(table, slot, 4, what)
        self.spend(count)
        for i in range(count):
            yield self.table(self.follow(at + 4 * i, what), f"{what}[{i}]")


class Field(NamedTuple):
    """One field of a table. Kinds: `b` int8, `B` uint8, `i` int32, `I` uint32, `f` float32, `?` bool, `o` offset."""

    slot: int
    kind: str
    value: float


def write_table(builder: Any, fields: Sequence[Field]) -> int:
    """Write a table and return its offset."""
    put = {
        "b": builder.PrependInt8Slot,
        "B": builder.PrependUint8Slot,
        "i": builder.PrependInt32Slot,
        "I": builder.PrependUint32Slot,
        "f": builder.PrependFloat32Slot,
        "?": builder.PrependBoolSlot,
        "o": builder.PrependUOffsetTRelativeSlot,
    }
    builder.StartObject(max((field.slot for field in fields), default=-1) + 1)
    for field in fields:
        put[field.kind](field.slot, field.value, 0)
    return int(builder.EndObject())


def write_offsets(builder: Any, offsets: Sequence[int]) -> int:
    """Write a vector of tables and return its offset."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def write_int32s(builder: Any, values: Sequence[int]) -> int:
    """Write a vector of 32-bit integers and return its offset."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def write_buffer(builder: Any, content: bytes) -> int:
    """Write a Buffer table; its content is aligned, none at all means computed at run time."""
    if not content:
        return write_table(builder, ())
    builder.Prep(DATA_ALIGNMENT, len(content))
    return write_table(builder, (Field(0, "o", int(builder.CreateByteVector(content))),))

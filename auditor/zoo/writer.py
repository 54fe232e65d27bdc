"""The few flatbuffer shapes that a .tflite file is made of, over flatbuffers.Builder.

A table is a sequence of fields (slot in the schema, kind, value). Offsets are as the Builder counts them, from the end
of the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_IDENTIFIER = b"TFL3"
DATA_ALIGNMENT = 16
"""Of a buffer's content: what the schema's force_align asks for."""


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

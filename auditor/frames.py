"""Frames on a descriptor: so many bytes after their length (8 bytes, big-endian). What the agent, the zoo and the controller speak in."""

from __future__ import annotations

import os
import struct

LENGTH = struct.Struct(">Q")
PART = 1 << 20
"""Bytes of a longer content that are sent in one frame."""


def read(descriptor: int) -> bytes | None:
    """The next frame; None where the other end has gone, if in the middle of one."""
    length = _exactly(descriptor, LENGTH.size)
    return None if length is None else _exactly(descriptor, LENGTH.unpack(length)[0])


def write(descriptor: int, data: bytes) -> None:
    """Write a frame. Raises BrokenPipeError where the other end has gone."""
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _exactly(descriptor: int, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = os.read(descriptor, min(size, PART))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

"""The bytes of a firmware image, as formats read them: from memory where the file is compressed, else by ranges from the device."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from auditor.facts.types import Missing
from auditor.model import Status
from auditor.sources import base

if TYPE_CHECKING:
    from auditor.facts.reading import Device

    Span = tuple[int, int]
    """An offset and a length."""

MAX_READ = 16 << 20
"""Bytes that a format may read at once; headers, tables and manifests have less than one."""

PADDING = b"\x00\xff"


class Image(Protocol):
    """An image. What lies beyond its end is not read, and spans beyond it have no digest."""

    @property
    def size(self) -> int:
        """Bytes, unpacked."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; raises ValueError for more than MAX_READ."""

    def digest(self, algorithm: str, *spans: Span) -> bytes:
        """The digest of the spans' bytes; raises ValueError where one lies outside."""


class Bytes:
    """An image in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes."""
        return self._data[offset : offset + _sane(offset, length)]

    def digest(self, algorithm: str, *spans: Span) -> bytes:
        """The digest of the spans' bytes."""
        hasher = hashlib.new(algorithm)
        for offset, length in _inside(self.size, spans):
            hasher.update(memoryview(self._data)[offset : offset + length])
        return hasher.digest()


class OnDevice:
    """A file on a device; what the device refuses raises MissingFact."""

    def __init__(self, device: Device, path: str, size: int) -> None:
        self._device, self._path = device, path
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes, as one question."""
        length = min(_sane(offset, length), max(0, self.size - offset))
        return self._device.piece(self._path, offset, length) if length else b""

    def digest(self, algorithm: str, *spans: Span) -> bytes:
        """The digest of the spans' bytes, as one question."""
        return bytes.fromhex(self._device.answer(base.digest(self._path, algorithm, _inside(self.size, spans))).decode("ascii"))


class Split(OnDevice):
    """A file whose segments may lie in files of their own beside it: NAME.b00, NAME.b01 … (drivers/soc/qcom/mdt_loader.c)."""

    def part(self, number: int) -> Image | None:
        """The file of a segment; None where there is none. Raises MissingFact for one that may not be looked at."""
        path = f"{self._path.rpartition('.')[0]}.b{number:02d}"
        found = self._device.stat(path)
        if isinstance(found, Missing) and found.status is Status.ABSENT:
            return None
        return OnDevice(self._device, path, found.open().size)


def uncovered(image: Image, covered: list[Span]) -> int:
    """Bytes outside the covered spans that are no padding; what is too much to look at is taken for such."""
    count = position = looked = 0
    for offset, length in [*sorted(covered), (image.size, 0)]:
        gap = offset - position
        if 0 < gap <= MAX_READ - looked:
            looked += gap
            count += len(image.read(position, gap).translate(None, PADDING))
        elif gap > 0:
            count += gap
        position = max(position, offset + length)
    return count


def _sane(offset: int, length: int) -> int:
    if offset < 0 or not 0 <= length <= MAX_READ:
        raise ValueError(f"{length} bytes at {offset}")
    return length


def _inside(size: int, spans: tuple[Span, ...]) -> tuple[Span, ...]:
    if not spans or any(offset < 0 or length < 0 or offset + length > size for offset, length in spans):
        raise ValueError("what is signed lies outside the file")
    return spans

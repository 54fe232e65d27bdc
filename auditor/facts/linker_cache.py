"""/etc/ld.so.cache: where the dynamic linker looks a name up before its default folders (glibc sysdeps/generic/dl-cache.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = b"glibc-ld.so.cache1.1"
_OLD_MAGIC = b"ld.so-1.7.0\0"
_OLD_ENTRY = 12
_HEADER = 48
_WORDS = 6
_BIG_ENDIAN = 3
_ALIGNMENT = 8

MAX_CACHE = 1 << 20

MAX_TAILS = 256
"""Strings that end in one name."""


class BadCache(ValueError):  # noqa: N818  # what is wrong is the file
    """The file is not a cache that the linker would read; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class LinkerCache:
    """A cache: its bytes, the words of its entries, and the first entry by the place of its name in the bytes."""

    data: bytes
    words: Sequence[int]
    """Flags, place of the name, place of the path, kernel version, and the two halves of hwcap; entries of one name follow each other."""
    first: Mapping[int, int]

    def paths(self, name: str) -> Iterator[tuple[str, bool]]:
        """The paths of a name in the cache's order, and whether only some processors take them. Raises BadCache."""
        wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        at = self.data.find(wanted)
        for _ in range(MAX_TAILS):
            if at < 0:
                return
            yield from self._at(at)
            at = self.data.find(wanted, at + 1)
        raise BadCache(f"more than {MAX_TAILS} strings end in one name")

    def _at(self, name: int) -> Iterator[tuple[str, bool]]:
        """The paths of the entries whose name is at one place."""
        for at in range(self.first.get(name, len(self.words)), len(self.words), _WORDS):
            _, key, path, _, low, high = self.words[at : at + _WORDS]
            if key != name:
                return
            end = self.data.find(b"\0", path)
            if end < 0:
                raise BadCache(f"the path at {path} has no end")
            yield self.data[path:end].decode("utf-8", "surrogateescape"), bool(low or high)


def read_cache(data: bytes) -> LinkerCache:
    """The cache in a file's bytes; raises BadCache. A file in the older format may hold one in the newer after its own entries."""
    if len(data) > MAX_CACHE:
        raise BadCache(f"more than {MAX_CACHE} bytes")
    if data.startswith(_OLD_MAGIC) and len(data) >= 16:
        end = 16 + _OLD_ENTRY * struct.unpack_from("<I", data, 12)[0]
        data = data[end + -end % _ALIGNMENT :]
    if not data.startswith(_MAGIC) or len(data) < _HEADER:
        raise BadCache("expected glibc-ld.so.cache1.1")
    count = struct.unpack_from("<I", data, 20)[0]
    if data[28] & 3 == _BIG_ENDIAN or _HEADER + 4 * _WORDS * count > len(data):
        raise BadCache(f"{count} entries do not fit, or are big-endian")
    words = struct.unpack_from(f"<{_WORDS * count}I", data, _HEADER)
    names = words[1::_WORDS]
    return LinkerCache(data, words, dict(zip(reversed(names), range(_WORDS * (count - 1), -1, -_WORDS), strict=True)))

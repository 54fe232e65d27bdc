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
_ENTRY = struct.Struct("<iIIIQ")
_BIG_ENDIAN = 3
_ALIGNMENT = 8

MAX_TAILS = 256
"""Strings that end in one name."""


class BadCache(ValueError):  # noqa: N818  # what is wrong is the file
    """The file is not a cache that the linker would read; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class LinkerCache:
    """A cache: its bytes, and by the place of a name in them the places of its paths, each with whether only some processors take it."""

    data: bytes
    entries: Mapping[int, Sequence[tuple[int, bool]]]

    def paths(self, name: str) -> Iterator[tuple[str, bool]]:
        """The paths of a name in the cache's order, and whether only some processors take them. Raises BadCache."""
        wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        at = self.data.find(wanted)
        for _ in range(MAX_TAILS):
            if at < 0:
                return
            for place, hwcaps in self.entries.get(at, ()):
                end = self.data.find(b"\0", place)
                if end < 0:
                    raise BadCache(f"the path at {place} has no end")
                yield self.data[place:end].decode("utf-8", "surrogateescape"), hwcaps
            at = self.data.find(wanted, at + 1)
        raise BadCache(f"more than {MAX_TAILS} strings end in one name")


def read_cache(data: bytes) -> LinkerCache:
    """The cache in a file's bytes; raises BadCache. A file in the older format may hold one in the newer after its own entries."""
    if data.startswith(_OLD_MAGIC) and len(data) >= 16:
        end = 16 + _OLD_ENTRY * struct.unpack_from("<I", data, 12)[0]
        data = data[end + -end % _ALIGNMENT :]
    if not data.startswith(_MAGIC) or len(data) < _HEADER:
        raise BadCache("expected glibc-ld.so.cache1.1")
    count = struct.unpack_from("<I", data, 20)[0]
    if data[28] & 3 == _BIG_ENDIAN or _HEADER + count * _ENTRY.size > len(data):
        raise BadCache(f"{count} entries do not fit, or are big-endian")
    entries: dict[int, list[tuple[int, bool]]] = {}
    for _, key, value, _, hwcap in _ENTRY.iter_unpack(data[_HEADER : _HEADER + count * _ENTRY.size]):
        entries.setdefault(key, []).append((value, hwcap != 0))
    return LinkerCache(data, entries)

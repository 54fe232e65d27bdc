"""Questions and answers: the only way in which anything in the program learns about a device.

Paths are `str` with surrogate escapes for bytes that are not UTF-8 (`os.fsdecode`); an answer's data are always bytes:

| question | data of an `ok` answer |
|---|---|
| read | the bytes of the file from `offset`, at most `length` |
| list | the sorted names in the folder, each ended by a NUL |
| link | the target of the symbolic link, as it lies |
| stat | JSON: `{"real", "kind", "mode", "uid", "gid", "size", "blocks", "dev", "ino", "major", "minor"}`, links followed; |
| | `real` is the resolved path inside the root |
| xattr | the value of the extended attribute |
| digest | the hexadecimal digest of the ranges (of the whole file where there are none) |
| sonames | the sorted names of shared objects that the file's bytes spell (`libx.so`, `dir/libx.so.1`), each ended by a NUL: what it may |
| holds | those of the words in the question that the file's bytes hold, each ended by a NUL |
| | dlopen, without the file itself in the record |
| udev | JSON: `[{"sys": path, "properties": {…}}]` of a subsystem, properties as the kernel gives them in `uevent` |
| kernel_log | the kernel's messages, one a line |
| probe, run | one JSON document |
| plan | JSON: what this audit was asked to look at |
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from auditor.model import Status

READ_LIMIT = 1 << 20
"""Bytes that a `read` question asks for where its length is not given."""

LIST_LIMIT = 65_536
"""Names in a folder above which listing it is `failed` (E2BIG)."""


class Question(NamedTuple):
    """One question; `path` is a path on the device, or the name of a probe, model or subsystem."""

    kind: str
    path: str
    args: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a question; `errno` is 0 where the status is `ok` or `unasked`."""

    status: Status
    data: bytes = b""
    errno: int = 0


LOG_DEVICE = os.makedev(1, 11)
"""Of /dev/kmsg (Documentation/admin-guide/devices.txt): what else lies there, a terminal for one, says what its owner wants."""

UNASKED = Reply(Status.UNASKED)


class Source(Protocol):
    """Something that answers questions about one device. It never raises for what a device may do; it answers `failed`."""

    @property
    def kind(self) -> str:
        """`live`, `ssh`, `root`, `snapshot` or `demo`."""

    @property
    def name(self) -> str:
        """The device's name, for people."""

    def ask(self, question: Question) -> Reply:
        """Answer one question."""


def read(path: str, offset: int = 0, length: int = READ_LIMIT) -> Question:
    """At most `length` bytes of a regular file, from `offset`."""
    return Question("read", path, (offset, length))


def names(path: str) -> Question:
    """The names in a folder."""
    return Question("list", path)


def link(path: str) -> Question:
    """The target of a symbolic link."""
    return Question("link", path)


def stat(path: str) -> Question:
    """What a path leads to; no times."""
    return Question("stat", path)


def xattr(path: str, name: str) -> Question:
    """An extended attribute."""
    return Question("xattr", path, (name,))


def digest(path: str, algorithm: str = "sha256", ranges: tuple[tuple[int, int], ...] = ()) -> Question:
    """The digest of a file, or of the concatenation of its `(offset, length)` ranges."""
    return Question("digest", path, (algorithm, *(number for span in ranges for number in span)))


def sonames(path: str) -> Question:
    """The names of shared objects in the bytes of a file."""
    return Question("sonames", path)


def holds(path: str, *words: str) -> Question:
    """Which of some words (ASCII, at most 64 characters each) the bytes of a file hold."""
    return Question("holds", path, words)


def udev(subsystem: str) -> Question:
    """The devices of a subsystem."""
    return Question("udev", subsystem)


def kernel_log() -> Question:
    """The kernel's messages."""
    return Question("kernel_log", "")


def probe(name: str, *args: str | int) -> Question:
    """The result of a probe: something tried on the device."""
    return Question("probe", name, args)


def run(model: str, *args: str | int) -> Question:
    """The result of one measured run of a model."""
    return Question("run", model, args)


def plan() -> Question:
    """What this audit was asked to look at (delegate, zoo, accelerators); part of the record, so that judging it again asks the same."""
    return Question("plan", "")


def refused(error: OSError) -> Reply:
    """The reply that an error of the operating system means."""
    number = error.errno or errno.EIO
    if number in {errno.ENOENT, errno.ENOTDIR, errno.ENODATA}:
        return Reply(Status.ABSENT, errno=number)
    if number in {errno.EACCES, errno.EPERM}:
        return Reply(Status.DENIED, errno=number)
    return Reply(Status.FAILED, errno=number)

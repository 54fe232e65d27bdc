"""Answers from a tree of files: a directory laid out like a device's file system, or this machine itself.

Below a root every symbolic link is resolved inside it (an absolute target starts again at the root, `..` stops there), so nothing
outside is ever opened. Only regular files are read: a FIFO, a socket or a device node in a tree is `failed`, not waited for.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from auditor.model import Status, printable
from auditor.sources.base import LIST_LIMIT, UNASKED, Question, Reply, refused
from auditor.sources.kernel_log import LOG_FILES, LOG_LIMIT, saved_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LINK_LIMIT = 40
"""Symbolic links followed in one path (the kernel's own limit, MAXSYMLINKS)."""

CHUNK = 1 << 20
_LAST_OFFSET = (1 << 63) - 1
"""The last byte that the kernel can name (off_t)."""

DIGEST_LIMIT = 4 << 30
"""Bytes above which a digest is `failed` (EFBIG): a sparse file costs nothing to make."""

SCAN_LIMIT = 1 << 30
"""Bytes of a file above which searching it for names is `failed` (EFBIG)."""

WORK_LIMIT = 16 << 30
"""Bytes hashed and searched of one tree, in all, above which either is `failed` (EFBIG): a minute, whatever the tree is made of."""

SCAN_CHUNK = 1 << 18
"""Bytes that are searched at a time: they stay in the processor's cache from one search to the next."""

WORD_LENGTH = 64
"""Bytes of the longest word that a file is searched for."""

WORDS = 32
"""Words that a file is searched for at once; more of them count as more of its bytes."""

SCAN_NAMES = 4096
"""Different names in one file above which searching it is `failed` (E2BIG); as many as 256 times this are looked at."""

_SONAME = re.compile(rb"\.so(?:\.(?:[0-9][0-9A-Za-z]{0,15}|%[0-9a-z]{1,4})){0,4}(?![0-9A-Za-z_])")
_NAME_BYTES = bytes(byte for byte in range(33, 127) if chr(byte).isalnum() or chr(byte) in "_+-.%$@{}~/")
_NAME_LENGTH = 255
_RARE = (b"$", b"%", b"/", b".", b"!")
"""Bytes that are rare in machine code and are found in most names."""

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Tree:
    """The questions about files, answered below `root`; `/` is this machine."""

    kind = "root"

    def __init__(self, root: str, name: str | None = None) -> None:
        self._root = os.path.realpath(root).rstrip("/")
        self._names: str = name or printable(os.path.basename(self._root) or "/")
        self._links: dict[str, str | None] = {}
        self._resolved: dict[str, str] = {}
        self._left = WORK_LIMIT
        self._answers: Mapping[str, Callable[[Question], Reply]] = {
            "read": self._read,
            "list": self._list,
            "link": self._link,
            "stat": self._stat,
            "xattr": self._xattr,
            "digest": self._digest,
            "sonames": self._sonames,
            "holds": self._holds,
            "udev": self._udev,
            "kernel_log": self._kernel_log,
        }

    @property
    def name(self) -> str:
        """The name of the root's last folder, or the one given."""
        return self._names

    def ask(self, question: Question) -> Reply:
        """Answer from the tree; what a tree cannot know (probes, runs, a log that it does not hold) is `unasked`."""
        answer = self._answers.get(question.kind)
        if answer is None:
            return UNASKED
        if "\0" in question.path:
            return Reply(Status.ABSENT, errno=errno.ENOENT)
        try:
            return answer(question)
        except OSError as error:
            return refused(error)
        except ValueError:  # a path that is no bytes, an algorithm that this machine does not have: nothing is known by that
            return UNASKED

    def _resolve(self, path: str, *, follow: bool = True) -> str:
        """The device's path with every link resolved; the last part is not followed unless `follow`.

        Raises OSError for a loop, and for a part that is not there or may not be looked at: what cannot be told from a link is never
        handed on, since the kernel would follow it, out of the root.
        """
        parts = [part for part in reversed(path.split("/")) if part and part != "."]
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                self._target("/".join(["", *done, "."]))  # raises where what is left behind is no folder
                del done[-1:]
                continue
            target = self._target("/".join(["", *done, part])) if follow or parts else None
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > LINK_LIMIT:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                done = []
            parts.extend(piece for piece in reversed(target.split("/")) if piece and piece != ".")
        return "/" + "/".join(done)

    def _target(self, path: str) -> str | None:
        """The target of the link at a path whose parents are resolved; None where it is no link."""
        if path not in self._links:
            try:
                self._links[path] = os.readlink(self._root + path)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._links[path] = None
        return self._links[path]

    def _open(self, path: str) -> int:
        """A descriptor of a regular file; the file is looked at before and after it is opened, and never waited for."""
        if path not in self._resolved:  # images are read in hundreds of pieces
            self._resolved[path] = self._resolve(path)
        host = self._root + self._resolved[path]
        check_regular(os.lstat(host))
        descriptor = os.open(host, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            check_regular(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _afford(self, size: int, limit: int) -> None:
        """Raise EFBIG for more bytes to hash or search than a file's limit, or than are left of the tree's."""
        if size > min(limit, self._left):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._left -= size

    def _read(self, question: Question) -> Reply:
        offset, length = (int(number) for number in question.args)
        descriptor = self._open(question.path)
        try:
            return Reply(Status.OK, b"".join(_pieces(descriptor, offset, length)))
        finally:
            os.close(descriptor)

    def _kernel_log(self, question: Question) -> Reply:
        """The log that a tree holds as a file; a node in its place is another kernel's."""
        del question
        for path in LOG_FILES:
            try:
                descriptor = self._open(path)
            except OSError as error:
                if refused(error).status is Status.DENIED:
                    raise
                continue
            try:
                return Reply(Status.OK, saved_log(b"".join(_pieces(descriptor, 0, LOG_LIMIT))))
            finally:
                os.close(descriptor)
        return UNASKED

    def _list(self, question: Question) -> Reply:
        host = self._root + self._resolve(question.path)
        try:
            with os.scandir(os.fsencode(host)) as entries:
                found = [entry.name for entry in itertools.islice(entries, LIST_LIMIT + 1)]
        except NotADirectoryError:  # there, and no folder
            return Reply(Status.FAILED, errno=errno.ENOTDIR)
        if len(found) > LIST_LIMIT:
            return Reply(Status.FAILED, errno=errno.E2BIG)
        return Reply(Status.OK, b"".join(name + b"\0" for name in sorted(found)))

    def _link(self, question: Question) -> Reply:
        host = self._root + self._resolve(question.path, follow=False)
        try:
            return Reply(Status.OK, os.fsencode(os.readlink(host)))
        except OSError as error:
            if error.errno == errno.EINVAL:  # there, and no link
                return Reply(Status.FAILED, errno=errno.EINVAL)
            raise

    def _stat(self, question: Question) -> Reply:
        real = self._resolve(question.path)
        return Reply(Status.OK, stat_document(real, os.lstat(self._root + real)))

    def _xattr(self, question: Question) -> Reply:
        host = self._root + self._resolve(question.path)
        return Reply(Status.OK, os.getxattr(host, str(question.args[0]), follow_symlinks=False))

    def _digest(self, question: Question) -> Reply:
        algorithm, *numbers = question.args
        spans = [(int(numbers[at]), int(numbers[at + 1])) for at in range(0, len(numbers), 2)] or [(0, 1 << 62)]
        hasher = hashlib.new(str(algorithm), usedforsecurity=True)
        descriptor = self._open(question.path)
        try:
            size = os.fstat(descriptor).st_size
            self._afford(sum(min(length, size) for _, length in spans), DIGEST_LIMIT)
            for offset, length in spans:
                for piece in _pieces(descriptor, offset, length):
                    hasher.update(piece)
        finally:
            os.close(descriptor)
        return Reply(Status.OK, hasher.hexdigest().encode())

    def _sonames(self, question: Question) -> Reply:
        found: set[bytes] = set()
        descriptor = self._open(question.path)
        try:
            self._afford(os.fstat(descriptor).st_size, SCAN_LIMIT)
            for count, name in enumerate(_names_in(descriptor)):
                found.add(name)
                if len(found) > SCAN_NAMES or count > 256 * SCAN_NAMES:
                    return Reply(Status.FAILED, errno=errno.E2BIG)
        finally:
            os.close(descriptor)
        return Reply(Status.OK, b"".join(name + b"\0" for name in sorted(found)))

    def _holds(self, question: Question) -> Reply:
        words = [str(word).encode("ascii") for word in question.args]
        missing = _by_rare_byte(words)
        descriptor = self._open(question.path)
        try:
            self._afford(os.fstat(descriptor).st_size * (1 + len(words) // WORDS), SCAN_LIMIT)
            for buffer, end, _ in _windows(descriptor, WORD_LENGTH):
                missing = {rare: left for rare, rest in missing.items() if (left := _not_in(buffer, end, rare, rest))}
                if not missing:
                    break
        finally:
            os.close(descriptor)
        gone = {word for rest in missing.values() for word in rest}
        return Reply(Status.OK, b"".join(word + b"\0" for word in words if word not in gone))

    def _udev(self, question: Question) -> Reply:
        """The devices of a class or bus; some names are both (`mei`, `nd`)."""
        folders = (f"/sys/class/{question.path}", f"/sys/bus/{question.path}/devices")
        listings = {folder: self.ask(Question("list", folder)) for folder in folders}
        unread = [listed for listed in listings.values() if listed.status not in {Status.OK, Status.ABSENT}]
        if unread or all(listed.status is Status.ABSENT for listed in listings.values()):
            return unread[0] if unread else Reply(Status.ABSENT, errno=errno.ENOENT)
        paths = [f"{folder}/{os.fsdecode(name)}" for folder, listed in listings.items() for name in listed.data.split(b"\0")[:-1]]
        return self._devices(question.path, paths)

    def _devices(self, _subsystem: str, paths: list[str]) -> Reply:
        """The devices at the given paths, read as udev reads them: from each one's `uevent`; a file is an attribute of the class."""
        devices: list[dict[str, Any]] = []
        for path in paths:
            uevent = self.ask(Question("read", f"{path}/uevent", (0, CHUNK)))
            if uevent.status in {Status.DENIED, Status.FAILED}:
                return uevent
            if uevent.errno != errno.ENOTDIR:
                devices.append({"sys": self._real(path), "properties": kernel_properties(_uevent(uevent.data))})
        return Reply(Status.OK, udev_document(devices))

    def _real(self, path: str) -> str:
        """The resolved path; of a link whose target is not there, the path itself."""
        try:
            return self._resolve(path)
        except FileNotFoundError:
            return path


_UEVENT_KEYS = frozenset({
    "DEVNAME", "DEVTYPE", "DRIVER", "MAJOR", "MINOR", "MODALIAS", "OF_FULLNAME", "OF_NAME",
    "PCI_CLASS", "PCI_ID", "PCI_SLOT_NAME", "PCI_SUBSYS_ID", "PRODUCT",
})  # fmt: skip


def kernel_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """What the kernel itself says of a device; udev's own database is left out, so that every source gives the same answer."""
    kept = {key: properties[key] for key in properties if key in _UEVENT_KEYS or key.startswith("OF_COMPATIBLE_")}
    if "DEVNAME" in kept:
        kept["DEVNAME"] = kept["DEVNAME"].removeprefix("/dev/")
    return kept


def _uevent(text: bytes) -> dict[str, str]:
    """The `KEY=value` lines of a `uevent` file."""
    lines = (line.partition("=") for line in printable(text).split("\n"))
    return {key: value for key, equals, value in lines if equals}


def stat_document(real: str, found: os.stat_result) -> bytes:
    """The data of a `stat` answer about a resolved path."""
    document = {
        "real": os.fsencode(real).decode("utf-8", "surrogateescape"),
        "kind": _KINDS.get(stat.S_IFMT(found.st_mode), "other"),
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size,
        "blocks": found.st_blocks,
        "dev": found.st_dev,
        "ino": found.st_ino,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
    }
    return json.dumps(document).encode()


def udev_document(devices: list[dict[str, Any]]) -> bytes:
    """The data of a `udev` answer: devices sorted by their path."""
    return json.dumps(sorted(devices, key=lambda device: str(device["sys"])), sort_keys=True).encode()


def check_regular(found: os.stat_result) -> None:
    """Raise the OSError of reading what is no regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def _pieces(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a file from `offset`, at most `length`; /proc and /sys give less than asked for, so it reads to the end."""
    length = min(length, _LAST_OFFSET - offset)
    while length > 0:
        piece = os.pread(descriptor, min(CHUNK, length), max(offset, -1))
        if not piece:
            return
        yield piece
        offset += len(piece)
        length -= len(piece)


def _windows(descriptor: int, before: int) -> Iterator[tuple[bytearray, int, bool]]:
    """A file piece by piece in one buffer, with the piece's end in there, and whether more may follow.

    The last `before` bytes of a piece are the first of the next; the last piece has nothing else in it.
    """
    buffer = bytearray(before + SCAN_CHUNK)
    view = memoryview(buffer)
    offset = kept = 0
    while True:
        count = os.preadv(descriptor, [view[kept : kept + SCAN_CHUNK]], offset) if offset < SCAN_LIMIT else 0
        end = kept + count
        yield buffer, end, bool(count)
        if not count:
            return
        offset += count
        kept = min(end, before)
        view[:kept] = view[end - kept : end]


def _by_rare_byte(words: list[bytes]) -> dict[bytes, tuple[bytes, ...]]:
    """Words that have a rare byte in common, by that byte, so that one search finds them all; a word without one by itself."""
    groups: dict[bytes, tuple[bytes, ...]] = {}
    left = tuple(dict.fromkeys(words))
    while left:
        rare = max(_RARE, key=lambda each: sum(each in word for word in left))
        group = tuple(word for word in left if rare in word) or left[:1]
        groups[rare if rare in group[0] else group[0]] = group
        left = tuple(word for word in left if word not in group)
    return groups


def _not_in(data: bytearray, end: int, rare: bytes, words: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those of some words, all with `rare` in them, that are not among data[:end]: for one byte `re` is fast, for many `find`."""
    if words == (rare,) and len(rare) > 1:
        return words if data.find(rare, 0, end) < 0 else ()
    at = 0
    while words and (match := _search(rare, words).search(data, at, end)):
        at = match.start()
        words = tuple(word for word in words if not data.startswith(word, max(0, at - word.rfind(rare)), end))
    return words


@functools.lru_cache(maxsize=256)
def _search(rare: bytes, words: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Finds the last `rare` of any of the words."""
    rests = (word[word.rfind(rare) + len(rare) :] for word in words)
    endings = (b"%s(?<=%s)" % (re.escape(rest), re.escape(word)) for rest, word in zip(rests, words, strict=True))
    return re.compile(re.escape(rare) + b"(?:%s)" % b"|".join(endings))


def _names_in(descriptor: int) -> Iterator[bytes]:
    """The names of shared objects in a file. What begins close to a window's end is left to the next, where all of it is seen."""
    seen = 0
    for buffer, end, more in _windows(descriptor, 2 * _NAME_LENGTH):
        ready = end - _NAME_LENGTH if more else end
        for match in _SONAME.finditer(buffer, seen, end):
            if match.start() < ready:
                before = bytes(buffer[max(0, match.start() - _NAME_LENGTH) : match.start()])
                yield before[len(before.rstrip(_NAME_BYTES)) :] + match.group()
        seen = max(0, ready - max(0, end - 2 * _NAME_LENGTH))

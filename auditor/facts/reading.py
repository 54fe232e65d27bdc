"""Asking questions and getting facts: each answer becomes `Ok` with its evidence or `Missing` with the reason."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.facts.types import Fact, Missing, Ok
from auditor.model import Evidence, Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Callable

EXCERPT = 160
"""Characters of a file that are shown beside a finding."""

_OF_FILES = frozenset({"read", "list", "link", "stat", "xattr", "digest", "sonames", "holds"})
_BINARY = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_SHA256 = re.compile(rb"[0-9a-f]{64}")
_NOTES = {errno.EXDEV: "something is mounted over the kernel's own files there"}
_REMEDIES = {Status.DENIED: Remedy.ROOT, Status.UNASKED: Remedy.LIVE, Status.FAILED: Remedy.EVIDENCE}


@dataclass(frozen=True, slots=True)
class FileStat:
    """A `stat` answer; `real` is the resolved path on the device, `kind` is file, directory, character, block, fifo, socket or other."""

    real: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    blocks: int
    dev: int
    ino: int
    major: int
    minor: int


class Device:
    """A source as the facts see it."""

    __slots__ = ("_source",)

    def __init__(self, source: base.Source) -> None:
        self._source = source

    def ask(self, question: base.Question) -> Fact[bytes]:
        """The bytes that a question was answered with."""
        reply = self._source.ask(question)
        if reply.status is Status.OK:
            return Ok(reply.data, (evidence(question, reply),))
        if reply.errno == errno.ELOOP:  # links that lead to each other lead nowhere, for whoever follows them
            return Missing(Status.ABSENT, (evidence(question, reply),), "its links lead nowhere")
        note = _NOTES.get(reply.errno, os.strerror(reply.errno)) if reply.errno else ""
        return Missing(reply.status, (evidence(question, reply),), note, _REMEDIES.get(reply.status))

    def data(self, path: str, offset: int = 0, length: int = base.READ_LIMIT) -> Fact[bytes]:
        """The bytes of a file; a file that is longer than `length` is cut there."""
        return self.ask(base.read(path, offset, length))

    def piece(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes of a file, for a reader that takes many and cites the file; raises MissingFact."""
        return self.answer(base.read(path, offset, length))

    def answer(self, question: base.Question) -> bytes:
        """The bytes that one of many questions about a file was answered with, where the file is cited; raises MissingFact."""
        reply = self._source.ask(question)
        return reply.data if reply.status is Status.OK else self.ask(question).open()

    def text(self, path: str) -> Fact[str]:
        """A small file as text, without white space at its ends."""
        return parse(self.data(path), lambda data: printable(data).strip())

    def line(self, path: str) -> Fact[str]:
        """What the kernel writes in a file that is never empty; a copy of /proc or /sys that went by sizes is, or is filled with zeros."""
        return parse(self.data(path), _line)

    def number(self, path: str, radix: int = 10) -> Fact[int]:
        """A file that holds one number."""
        return parse(self.text(path), lambda text: int(text, radix))

    def switch(self, path: str) -> Fact[bool]:
        """A kernel switch: Y, 1 or N, 0."""
        return parse(self.text(path), lambda text: {"Y": True, "1": True, "N": False, "0": False}[text])

    def names(self, path: str) -> Fact[tuple[str, ...]]:
        """The sorted names in a folder."""
        return parse(self.ask(base.names(path)), _names)

    def link(self, path: str) -> Fact[str]:
        """The target of a symbolic link, as it lies."""
        return parse(self.ask(base.link(path)), os.fsdecode)

    def link_name(self, path: str) -> Fact[str]:
        """The last part of the target of a symbolic link: how sysfs names a device's driver, module or group."""
        return parse(self.link(path), _last)

    def stat(self, path: str) -> Fact[FileStat]:
        """What a path leads to."""
        return parse(self.ask(base.stat(path)), _file_stat)

    def sha256(self, path: str) -> Fact[str]:
        """The sha256 of a whole file, as hexadecimal digits."""
        return parse(self.ask(base.digest(path)), _sha256)

    def document(self, question: base.Question) -> Fact[Any]:
        """A question that is answered with JSON."""
        return parse(self.ask(question), json.loads)


def _last(target: str) -> str:
    name = target.rstrip("/").rpartition("/")[2]
    if not name or "\0" in name:
        raise ValueError("expected a path that ends in a name")
    return name


def _line(data: bytes) -> str:
    if not data or b"\0" in data:
        raise ValueError("expected text, found " + ("zero bytes" if data else "nothing"))
    return printable(data).strip()


def _names(data: bytes) -> tuple[str, ...]:
    *names, rest = os.fsdecode(data).split("\0")
    if rest or b"/" in data or not {"", ".", ".."}.isdisjoint(names):
        raise ValueError("expected file names, each ended by a NUL")
    return tuple(names)


def _file_stat(data: bytes) -> FileStat:
    found = FileStat(**json.loads(data))
    texts = (found.real, found.kind)
    numbers = (found.mode, found.uid, found.gid, found.size, found.blocks, found.dev, found.ino, found.major, found.minor)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("expected the texts real and kind, and numbers")
    return found


def _sha256(data: bytes) -> str:
    if not _SHA256.fullmatch(data):
        raise ValueError("expected 64 hexadecimal digits")
    return data.decode("ascii")


def parse(fact: Fact[Any], reader: Callable[[Any], Any]) -> Fact[Any]:
    """Read a value out of a fact; what the reader cannot make sense of is Missing(FAILED), never a value."""
    if isinstance(fact, Missing):
        return fact
    try:
        return Ok(reader(fact.value), fact.evidence)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        return Missing(Status.FAILED, fact.evidence, f"not understood: {printable(str(error))[:EXCERPT]}", Remedy.EVIDENCE)


def evidence(question: base.Question, reply: base.Reply) -> Evidence:
    """What a report shows of an answer."""
    of_file = question.kind in _OF_FILES
    path = printable(question.path) if of_file else f"{question.kind}:{printable(question.path)}"
    if reply.status is not Status.OK:
        return Evidence(path, reply.status)
    if question == base.digest(question.path) and _SHA256.fullmatch(reply.data):
        return Evidence(path, reply.status, reply.data.decode("ascii"))
    if not of_file or _BINARY.search(reply.data[: 2 * EXCERPT]):  # not for eyes
        return Evidence(path, reply.status, hashlib.sha256(reply.data).hexdigest())
    shown = printable(reply.data[: 2 * EXCERPT].replace(b"\0", b" ")).strip()[:EXCERPT]
    return Evidence(path, reply.status, hashlib.sha256(reply.data).hexdigest(), shown)


def all_of(*facts: Fact[Any]) -> tuple[Evidence, ...]:
    """The evidence of several facts, in order, each once."""
    return tuple(dict.fromkeys(item for fact in facts for item in fact.evidence))

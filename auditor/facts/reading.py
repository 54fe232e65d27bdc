"""Asking questions and getting facts: each answer becomes `Ok` with its evidence or `Missing` with the reason."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.facts.types import Fact, Missing, Ok
from auditor.model import Evidence, Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Callable

EXCERPT = 160
"""Characters of a file that are shown beside a finding."""

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
        note = os.strerror(reply.errno) if reply.errno else ""
        return Missing(reply.status, (evidence(question, reply),), note, _REMEDIES.get(reply.status))

    def data(self, path: str, offset: int = 0, length: int = base.READ_LIMIT) -> Fact[bytes]:
        """The bytes of a file; a file that is longer than `length` is cut there."""
        return self.ask(base.read(path, offset, length))

    def text(self, path: str) -> Fact[str]:
        """A small file as text, without white space at its ends."""
        return parse(self.data(path), lambda data: printable(data).strip())

    def number(self, path: str, radix: int = 10) -> Fact[int]:
        """A file that holds one number."""
        return parse(self.text(path), lambda text: int(text, radix))

    def switch(self, path: str) -> Fact[bool]:
        """A kernel switch: Y, 1 or N, 0."""
        return parse(self.text(path), lambda text: {"Y": True, "1": True, "N": False, "0": False}[text])

    def names(self, path: str) -> Fact[tuple[str, ...]]:
        """The sorted names in a folder."""
        return parse(self.ask(base.names(path)), lambda data: tuple(os.fsdecode(name) for name in data.split(b"\0")[:-1]))

    def link(self, path: str) -> Fact[str]:
        """The target of a symbolic link, as it lies."""
        return parse(self.ask(base.link(path)), os.fsdecode)

    def link_name(self, path: str) -> Fact[str]:
        """The last part of the target of a symbolic link: how sysfs names a device's driver, module or group."""
        return parse(self.link(path), lambda target: target.rstrip("/").rpartition("/")[2])

    def stat(self, path: str) -> Fact[FileStat]:
        """What a path leads to."""
        return parse(self.ask(base.stat(path)), lambda data: FileStat(**json.loads(data)))

    def sha256(self, path: str) -> Fact[str]:
        """The sha256 of a whole file, as hexadecimal digits."""
        return parse(self.ask(base.digest(path)), lambda data: data.decode("ascii"))

    def document(self, question: base.Question) -> Fact[Any]:
        """A question that is answered with JSON."""
        return parse(self.ask(question), json.loads)


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
    path = printable(question.path) if question.kind in {"read", "list", "link", "stat", "xattr", "digest"} else ""
    path = path or f"{question.kind}:{printable(question.path)}"
    if reply.status is not Status.OK:
        return Evidence(path, reply.status)
    if question.kind == "digest":
        return Evidence(path, reply.status, reply.data.decode("ascii", "replace"))
    shown = printable(reply.data[: 2 * EXCERPT].replace(b"\0", b" ")).strip()[:EXCERPT]
    return Evidence(path, reply.status, hashlib.sha256(reply.data).hexdigest(), shown)


def all_of(*facts: Fact[Any]) -> tuple[Evidence, ...]:
    """The evidence of several facts, in order, each once."""
    return tuple(dict.fromkeys(item for fact in facts for item in fact.evidence))

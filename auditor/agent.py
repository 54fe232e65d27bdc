"""What runs on a device under test: asks it the facts' questions, and sends the answers back as one record.

It goes over as a zip of this program's reading code (standard library and pyelftools), is run from memory, and leaves nothing behind.
Requests come on stdin and replies go to stdout, each after its length (8 bytes, big-endian); the first reply follows `MARK`, which
tells it from whatever a login shell prints. A request is a JSON object: {"plan": text, "probes": whether to try things, "questions":
[[kind, path, argument…]], "collector", "collected_at"}; with questions, just those are asked, else everything the facts ask. The reply
is a snapshot; before it, a length of 0 now and then says that the device is still at it.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from auditor.facts.collect import collect
from auditor.facts.types import Settings
from auditor.model import Status
from auditor.sources import base
from auditor.sources.live import Live
from auditor.sources.recording import Recorder, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LENGTH = struct.Struct(">Q")
MARK = b"crosml-audit/agent/1\n"
PULSE = 10.0
"""Seconds of work, at least, between two signs of life."""


class Planned:
    """The machine it runs on, and the plan it was given. `alive` is called before each question."""

    kind = "ssh"

    def __init__(self, plan: str, alive: Callable[[], None], *, probes: bool) -> None:
        self._alive = alive
        self._plan = base.Reply(Status.OK, plan.encode())
        self._live = Live(probes=probes)

    @property
    def name(self) -> str:
        """The machine's name."""
        return self._live.name

    def ask(self, question: base.Question) -> base.Reply:
        """The plan, or what the machine answers."""
        self._alive()
        return self._plan if question == base.plan() else self._live.ask(question)


def answer(request: Mapping[str, Any], alive: Callable[[], None] = lambda: None) -> bytes:
    """The snapshot that a request asks for."""
    recorder = Recorder(Planned(request["plan"], alive, probes=request["probes"]))
    for kind, path, *arguments in request["questions"]:
        recorder.ask(base.Question(kind, path, tuple(arguments)))
    if not request["questions"]:
        collect(recorder, Settings())
    return pack(recorder.record(request["collector"], request["collected_at"]))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    replies.write(MARK)
    replies.flush()
    while length := requests.read(LENGTH.size):
        reply = answer(json.loads(requests.read(LENGTH.unpack(length)[0])), _Pulse(replies).beat)
        replies.write(LENGTH.pack(len(reply)) + reply)
        replies.flush()


class _Pulse:
    """Signs of life on a connection; they also find out that it is lost, and with it that the work is for nobody."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._last = time.monotonic()

    def beat(self) -> None:
        """Send one where the last is long ago."""
        if time.monotonic() - self._last > PULSE:
            self._replies.write(LENGTH.pack(0))
            self._replies.flush()
            self._last = time.monotonic()


def main() -> None:
    """Serve stdin and stdout; nothing else may write there, and whatever else is printed goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)

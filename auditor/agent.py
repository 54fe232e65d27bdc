"""What runs on a device under test: asks it the facts' questions, and sends the answers back as one record; has its zoo measured.

It goes over as a zip of this program's reading code (standard library and pyelftools; where the zoo is to be run, what that takes as
well), is run from memory, and leaves nothing behind. Requests come on stdin and replies go to stdout, each a frame (auditor/frames.py);
the first reply follows `MARK`, which tells it from whatever a login shell prints. A request is a JSON object:

    {"do": "collect", "plan": text, "probes": whether to try things, "questions": [[kind, path, argument…]], "collector", "collected_at"}
        with questions, just those are asked, else everything the facts ask; the reply is a snapshot
    {"do": anything else, …} and the frames that follow it, led by `=`
        are for the zoo (auditor/bench/remote.py), a process of its own; its replies go back as they are. Where it ends before its time, the
        reply is {"ended": how}

An empty frame, now and then, says that the device is still at it. The end of stdin is the end of the connection: then the zoo's
processes are ended, and its folder is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from auditor import folders, frames
from auditor.facts.collect import collect
from auditor.model import Status
from auditor.probes import answer as answer_probe
from auditor.sources import base
from auditor.sources.live import Live
from auditor.sources.recording import Recorder, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MARK = b"crosml-audit/agent/1\n"
PULSE = 10.0
"""Seconds of work, at least, between two signs of life."""

_GRACE_SECONDS = 20.0
_SET_CHILD_SUBREAPER = 36
_TICK_SECONDS, _OWN_END_SECONDS = 0.01, 5.0

_ZOO = """\
import sys
sys.path[:] = [sys.argv[1], *filter(None, sys.path)]
from auditor.bench.remote import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
"""What measures the zoo has all the packages of the device's python3, where a runtime may be among them."""


class Planned:
    """The machine it runs on, and the plan it was given, to which it adds as whom it reads. `alive` is called before each question."""

    kind = "ssh"

    def __init__(self, plan: str, alive: Callable[[], None], *, probes: bool) -> None:
        self._alive = alive
        self._plan = base.Reply(Status.OK, json.dumps({**json.loads(plan), "uid": os.geteuid()}, sort_keys=True).encode())
        self._live = Live(answer_probe) if probes else Live()

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
        collect(recorder)
    return pack(recorder.record(request["collector"], request["collected_at"]))


class Zoo:
    """The process that measures the zoo. Each of the two removes the folder of what was copied here, if the other cannot."""

    def __init__(self) -> None:
        from auditor.inference.process import descriptors_of, own_import_path  # noqa: PLC0415  # not there unless the zoo is to be run

        # whoever is left without a parent becomes a child of this process
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
        program = own_import_path()[0]
        self._folder = ""
        self.replies, give = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-X", "utf8", "-c", _ZOO, program, str(give), str(os.getpid())],
            stdin=subprocess.PIPE,
            bufsize=0,
            pass_fds=(give, *descriptors_of([program])),
            start_new_session=True,
        )
        os.close(give)
        assert self._process.stdin is not None
        self._requests = self._process.stdin.fileno()

    def tell(self, frame: bytes) -> None:
        """Pass a frame on; nobody may be there to read it any more, which the end of its replies tells."""
        with contextlib.suppress(BrokenPipeError):
            frames.write(self._requests, frame)

    def heard(self) -> bytes | None:
        """The next frame of its; None where it has ended."""
        frame = frames.read(self.replies)
        if frame is not None and frame.startswith(b'{"folder": '):
            self._folder = json.loads(frame)["folder"]
        return frame

    def close(self) -> str:
        """End it and all that it started, remove its folder, and tell how it ended."""
        self._process.terminate()
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        _end_children()
        if self._folder:
            folders.remove(self._folder)
        return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"


def _end_children() -> None:
    """End whatever processes of this one's are left: those that lost their own parent, and do not end by themselves, as supervisors do."""
    deadline = time.monotonic() + _OWN_END_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(_TICK_SECONDS)
        while True:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> Iterator[int]:
    own = os.getpid()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == own:
                yield int(name)


class _Pulse:
    """Signs of life on a connection; they also find out that it is lost, and with it that the work is for nobody."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        self._last = time.monotonic()

    def beat(self) -> None:
        """Send one where the last is long ago."""
        if time.monotonic() - self._last > PULSE:
            frames.write(self._replies, b"")
            self._last = time.monotonic()


def serve(requests: int, replies: int) -> None:
    """Answer requests until there are no more."""
    os.write(replies, MARK)
    zoo: Zoo | None = None
    try:
        while True:
            ready = select.select([requests, zoo.replies] if zoo else [requests], [], [], PULSE if zoo else None)[0]
            if not ready:
                frames.write(replies, b"")
            if zoo and zoo.replies in ready:
                said = zoo.heard()
                if said is None:
                    how, zoo = zoo.close(), None
                    said = json.dumps({"ended": how}).encode()
                frames.write(replies, said)
            if requests in ready:
                frame = frames.read(requests)
                if frame is None:
                    return
                request = {} if frame.startswith(b"=") else json.loads(frame)
                if request.get("do") == "collect":
                    frames.write(replies, answer(request, _Pulse(replies).beat))
                elif zoo or request:
                    zoo = zoo or Zoo()
                    zoo.tell(frame)
    finally:
        if zoo:
            zoo.close()


def main() -> None:
    """Serve stdin and stdout; nothing else may write there, and whatever else is printed goes to stderr."""
    replies = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(0, replies)

"""A device under test, asked over ssh: one connection by the system's own ssh, so the user's configuration, keys and jumps work.

The program's own reading code goes over as a zip, runs from memory under the device's python3 (3.10 or later), and sends one record
back; where the zoo is to be run, what measures it goes over too. Host keys are checked as ssh is configured to; a batch run never asks
for a password.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import json
import os
import re
import select
import subprocess
import time
import zipfile
from dataclasses import asdict, dataclass
from importlib import resources
from typing import IO, TYPE_CHECKING, Any

from auditor.errors import AuditError, UsageError
from auditor.model import visible
from auditor.sources import recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from importlib.abc import Traversable

    from typing_extensions import Self

    from auditor.sources.base import Question
    from auditor.sources.recording import Record

MARK = b"crosml-audit/agent/1\n"
BANNER_LIMIT = 1 << 20
"""Bytes that a login shell may print before the agent speaks."""
REPLY_LIMIT = recording.MAX_FILE
MESSAGE_LIMIT = recording.MAX_MEMBER
WHOLE = 3600.0
"""Seconds that a device has for one reply, however busily it sends."""
AGENT = (
    "__init__.py",
    "agent.py",
    "errors.py",
    "facts",
    "families",
    "files.py",
    "frames.py",
    "folders.py",
    "model.py",
    "probes",
    "sources",
    "statistics.py",
)
"""Of this program, what the agent needs on the device."""
FOR_THE_ZOO = ("bench", "inference", "tflite", "zoo")
"""What it needs there as well where the zoo is to be run."""

_CLOSE_SECONDS, _CLEAN_SECONDS = 5.0, 60.0
"""How long the device may take to end what it was doing; and, where something was copied to it, to remove that."""

_BOOT = (
    "import os,sys;"
    "sys.version_info<(3,10) and sys.exit('crosml-audit needs python3 of at least 3.10 on the device, found '+sys.version.split()[0]);"
    "i=sys.stdin.buffer;f=os.memfd_create('crosml-audit',3);n=int.from_bytes(i.read(8),'big');"
    "w=os.fdopen(os.dup(f),'wb');w.write(i.read(n));w.close();import fcntl;fcntl.fcntl(f,1033,15);"
    "sys.path.insert(0,'/proc/self/fd/%d'%f);from auditor.agent import main;main()"
)
# What vendor code runs beside inherits the file, so it is sealed (MFD_ALLOW_SEALING; F_ADD_SEALS: no further seal, size or write).
# Isolated (-I -S): neither the folder that one logs in to nor the user's own packages or environment take part. -B: nothing is written.
_PYTHON = f'exec python3 -I -S -B -c "{_BOOT}"'
_HOST = re.compile(r"(?!-)[^\s'\"\\]+")
_REFUSAL = re.compile(
    r"Permission denied|Host key verification failed|REMOTE HOST IDENTIFICATION|Too many authentication failures|no matching \w"
    r"|not allowed|[Bb]ad (configuration|permissions|owner)|account is|Can't open user config"
)
"""What OpenSSH says (ssh.c, sshconnect.c, sshconnect2.c, kex.c) where another try comes to the same."""
_NO_SSH = re.compile(r"banner line|invalid format|protocol version|Bad packet|Corrupted MAC")
"""And what it says of something else than an ssh server (kex.c, packet.c)."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the agent is told beside the questions: the plan (a JSON text), whether it may try things, who collects, and when."""

    plan: str
    probes: bool
    collector: str
    collected_at: str


class Loss(enum.Enum):
    """What became of a connection. Whoever audits many devices tries again only where that may help."""

    UNREACHABLE = "unreachable"
    """No connection, or one on which the agent never came to speak."""
    REFUSED = "refused"
    """The device, or our own ssh, refuses: a key, a changed host key, an account that may not log in."""
    UNSUITED = "no usable python3"
    WRONG = "wrong answer"
    """What answers there is no ssh server."""
    CUT = "connection lost"
    """It ended, or fell silent, after the agent had spoken: a reboot, a killed agent."""


class Lost(AuditError):  # noqa: N818  # what happened to the connection
    """The connection has ended, or nothing comes any more."""

    def __init__(self, message: str, loss: Loss = Loss.CUT) -> None:
        super().__init__(message)
        self.loss = loss


class Ssh:
    """One connection to a device; use as a context manager. What it was not asked is `unasked`."""

    kind = "ssh"

    def __init__(self, host: str, options: Sequence[str] = (), timeout: float = 120.0, *, zoo: bool = False) -> None:
        check_host(host)
        self.host = host
        self._timeout = timeout
        self._zoo = zoo
        self._grace = _CLOSE_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._banner = bytearray()
        self._received = bytearray()
        self._errors = b""
        self._errors_ended = False
        self._end = 0.0
        self._arguments = ["ssh", "-T", "-o", "BatchMode=yes", *options, "--", host, _PYTHON]

    def __enter__(self) -> Self:
        """Connect, and send the agent."""
        pipe = subprocess.PIPE
        try:
            # in a session of its own: a terminal's Ctrl-C is for the controller, which then hangs up
            self._process = subprocess.Popen(self._arguments, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
        except OSError as error:
            raise AuditError(f"--host {self.host}: ssh cannot be run: {error.strerror}") from None
        os.set_blocking(self._streams()[0].fileno(), False)  # ssh takes nothing before it is connected
        try:
            self._send(agent_zip(zoo=self._zoo))
            self._skip_banner()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up; the agent ends with its input, once it has put away what it had there."""
        process = self._process
        if process is None:
            return
        stdin, *outputs = self._streams()
        try:
            with contextlib.suppress(OSError):
                stdin.close()
            self._drain(outputs, time.monotonic() + self._grace)
        finally:
            for stream in outputs:
                stream.close()
            process.kill()
            process.wait()

    def collect(self, order: Order, questions: Sequence[Question] = ()) -> Record:
        """One round trip: the record of the questions, or of all that the facts ask where there are none."""
        asked = [[each.kind, each.path, *each.args] for each in questions]
        self._send(json.dumps({"do": "collect", **asdict(order), "questions": asked}).encode())
        return recording.unpack(self._frame(REPLY_LIMIT), f"--host {self.host}")

    def call(self, request: Mapping[str, Any], contents: Iterable[bytes] = ()) -> Iterator[tuple[str, Any]]:
        """Ask something of the device's zoo (auditor/bench/remote.py); yields its replies by their kinds, the last of which is an `end`.

        Raises UsageError for what was named wrongly, Lost, and AuditError where what answers there has ended, or sends something else.
        """
        self._grace = _CLEAN_SECONDS
        self._send(json.dumps(request).encode())
        for content in contents:
            self._send(b"=" + content)
        kind = ""
        while kind != "end":
            kind, content = self._message()
            if kind == "usage":
                raise UsageError(f"{visible(str(content))} (on {self.host})")
            if kind == "ended":
                said = _lines(self._errors)[-1:]
                raise AuditError(
                    visible(f"--host {self.host}: what measures the zoo there ended: {'; '.join([str(content), *said])}")[:500]
                )
            yield kind, content

    def _message(self) -> tuple[str, Any]:
        """A reply that is an object with one key; NaN, which no document of ours may hold, is refused."""
        try:
            document = json.loads(self._frame(MESSAGE_LIMIT), parse_constant=_refuse)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or len(document) != 1:
            raise AuditError(f"--host {self.host}: unexpected reply from the agent")
        return next(iter(document.items()))

    def _frame(self, limit: int) -> bytes:
        """The next frame that is not empty: an empty one says that the device is still at it."""
        self._end = time.monotonic() + WHOLE
        length = 0
        while not length:
            length = int.from_bytes(self._receive(8), "big")
        if length > limit:
            raise AuditError(f"--host {self.host}: a reply has {length} bytes, expected at most {limit}")
        return self._receive(length)

    def _send(self, data: bytes) -> None:
        """Send a message; what is said meanwhile is taken, or it might not get to the agent."""
        self._end = time.monotonic() + WHOLE
        stdin = self._streams()[0]
        view = memoryview(len(data).to_bytes(8, "big") + data)
        try:
            while view:
                if stdin in self._wait(writing=(stdin,)):
                    view = view[stdin.write(view) or 0 :]
                elif self._banner.endswith(MARK):
                    self._received += self._read(4096)
                else:
                    self._hear_banner()
        except BrokenPipeError:
            raise self._lost() from None

    def _receive(self, length: int) -> bytes:
        data, self._received = self._received[:length], self._received[length:]
        while len(data) < length:
            data += self._read(min(length - len(data), 1 << 20))
        return bytes(data)

    def _skip_banner(self) -> None:
        """The agent says nothing after its mark until it is asked."""
        while not self._banner.endswith(MARK):
            self._hear_banner()

    def _hear_banner(self) -> None:
        self._banner += self._read(4096)
        if len(self._banner) > BANNER_LIMIT:
            raise AuditError(f"--host {self.host}: its shell prints without end where the agent should answer")

    def _read(self, length: int) -> bytes:
        """At least one byte of the agent's output."""
        self._wait()
        data = os.read(self._streams()[1].fileno(), length)
        if not data:
            raise self._lost()
        return data

    def _wait(self, writing: Sequence[IO[bytes]] = ()) -> list[IO[bytes]]:
        """Wait for output, or until a stream can be written to; errors that come in are kept for the message if the connection ends."""
        _, stdout, stderr = self._streams()
        deadline = min(time.monotonic() + self._timeout, self._end)
        while True:
            left = deadline - time.monotonic()
            told = () if self._errors_ended else (stderr,)
            readable, writable, _ = select.select([stdout, *told], writing, [], max(0.0, left))
            if left <= 0 or not (readable or writable):
                self._grace = 0.0
                seconds = WHOLE if deadline == self._end else self._timeout
                raise Lost(f"--host {self.host}: no answer within {seconds:.0f} s", self._loss())
            if stderr in readable:
                self._hear(stderr)
            if writable or stdout in readable:
                return [*writable, *readable]

    def _hear(self, errors: IO[bytes]) -> None:
        said = os.read(errors.fileno(), 4096)
        self._errors, self._errors_ended = (self._errors + said)[-4096:], not said

    def _lost(self) -> Lost:
        """Why the connection ended, in one line: the last thing that ssh, the device's Python or its shell said."""
        _, stdout, stderr = self._streams()
        end = time.monotonic() + 2
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running().wait(2)
        # Not until it ends: what ssh leaves running (a shared connection, a ProxyCommand) may have it open.
        while not self._errors_ended and _is_ready(stderr, end):
            self._hear(stderr)
        if not self._banner and _is_ready(stdout, end):
            self._banner += os.read(stdout.fileno(), 4096)
        code = self._running().poll()
        said = _lines(self._errors) or _lines(self._banner.partition(MARK)[0])
        reason = visible(said[-1])[:300] if said else f"the connection ended (exit code {code})"
        if code == 127:
            reason = f"the device has no python3 ({reason})"
        return Lost(f"--host {self.host}: {reason}", self._loss(code, reason))

    def _loss(self, code: int | None = None, reason: str = "") -> Loss:
        """What a connection that comes to nothing is a case of; ssh itself ends in 255, and says in English what was refused."""
        if MARK in self._banner or (code is not None and 128 < code < 255):  # 128 and a signal
            return Loss.CUT
        if _NO_SSH.search(reason):
            return Loss.WRONG
        if code == 127 or "crosml-audit needs python3" in reason:
            return Loss.UNSUITED
        return Loss.REFUSED if code not in {None, 255} or _REFUSAL.search(reason) else Loss.UNREACHABLE

    def _drain(self, outputs: Sequence[IO[bytes]], deadline: float) -> None:
        """Wait for the process to end; what it still says is read, for it to be able to say it."""
        streams = list(outputs)
        while self._running().poll() is None and time.monotonic() < deadline:
            for stream in select.select(streams, [], [], 0.02)[0]:
                if not os.read(stream.fileno(), 1 << 16):
                    streams.remove(stream)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "used outside its context"
        return self._process

    def _streams(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        return process.stdin, process.stdout, process.stderr


def check_host(host: str) -> None:
    """Raise AuditError for what ssh would take for an option, or a shell for more than a word."""
    if not _HOST.fullmatch(host):
        raise AuditError(f"--host {visible(host)}: expected [USER@]HOST")


def _is_ready(stream: IO[bytes], end: float) -> bool:
    left = end - time.monotonic()
    return left > 0 and bool(select.select([stream], [], [], left)[0])


def _lines(said: bytes | bytearray) -> list[str]:
    return [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


@functools.cache
def agent_zip(*, zoo: bool = False) -> bytes:
    """The program's reading code and pyelftools, with `zoo` also what runs that, as a zip; the same code gives the same bytes."""
    out = io.BytesIO()
    ours = (*AGENT, *FOR_THE_ZOO) if zoo else AGENT
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for package, wanted in (("auditor", ours), ("elftools", None)):
            for name, content in _sources(resources.files(package), package, wanted):
                archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _sources(folder: Traversable, name: str, wanted: tuple[str, ...] | None = None) -> Iterator[tuple[str, bytes]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        inner = f"{name}/{each.name}"
        if wanted is not None and each.name not in wanted:
            continue
        if each.is_dir() and each.name != "__pycache__":
            yield from _sources(each, inner)
        elif each.name.endswith(".py"):
            yield inner, each.read_bytes()

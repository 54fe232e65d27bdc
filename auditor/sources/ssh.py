"""A device under test, asked over ssh: one connection by the system's own ssh, so the user's configuration, keys and jumps work.

The program's own reading code goes over as a zip, runs from memory under the device's python3 (3.10 or later), and sends one record
back; where the zoo is to be run, what measures it goes over too. Host keys are checked as ssh is configured to; a batch run never asks
for a password.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any

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
PACKAGES = ("auditor", "elftools")
LEFT_OUT = ("data", "verify", "cli.py", "audit.py", "codec.py", "engine.py", "registry.py", "requirements.py")
"""Of this program, what the agent does not need on the device."""
FOR_THE_ZOO = ("inference", "zoo")
"""What it needs there only where the zoo is to be run."""

_CLOSE_SECONDS = 5.0
_CLEAN_SECONDS = 60.0
"""How long the device may take to end what it was doing, and, where something was copied to it, to remove that."""

_BOOT = (
    "import os,sys;"
    "sys.version_info<(3,10) and sys.exit('crosml-audit needs python3 of at least 3.10 on the device, found '+sys.version.split()[0]);"
    "i=sys.stdin.buffer;f=os.memfd_create('crosml-audit',3);n=int.from_bytes(i.read(8),'big');"
    "w=os.fdopen(os.dup(f),'wb');w.write(i.read(n));w.close();import fcntl;fcntl.fcntl(f,1033,15);sys.dont_write_bytecode=True;"
    "sys.path.insert(0,'/proc/self/fd/%d'%f);from auditor.agent import main;main()"
)
"""Sealed before it is run (MFD_ALLOW_SEALING; F_ADD_SEALS: no more seals, sizes or writes): a worker's vendor code inherits the file."""

_HOST = re.compile(r"(?!-)[^\s'\"\\]+")


@dataclass(frozen=True, slots=True)
class Order:
    """What the agent is told beside the questions: the plan (a JSON text), whether it may try things, who collects, and when."""

    plan: str
    probes: bool
    collector: str
    collected_at: str


class Lost(AuditError):  # noqa: N818  # what happened to the connection
    """The connection has ended, or nothing comes any more."""


class Ssh:
    """One connection to a device; use as a context manager. What it was not asked is `unasked`."""

    kind = "ssh"

    def __init__(self, host: str, options: Sequence[str] = (), timeout: float = 120.0, *, zoo: bool = False) -> None:
        if not _HOST.fullmatch(host):
            raise AuditError(f"--host {visible(host)}: expected [USER@]HOST")
        self.host = host
        self._timeout = timeout
        self._zoo = zoo
        self._grace = _CLOSE_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = b""
        self._arguments = ["ssh", "-T", "-o", "BatchMode=yes", *options, "--", host, f'exec python3 -c "{_BOOT}"']

    def __enter__(self) -> Self:
        """Connect, and send the agent."""
        try:
            # a terminal's Ctrl-C is for the controller, which then hangs up
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise AuditError(f"--host {self.host}: ssh cannot be run: {error.strerror}") from None
        try:
            self._send(agent_zip(zoo=self._zoo))
            self._skip_banner()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the agent ends with its input, once it has put away what it had there."""
        process = self._running()
        assert process.stdin is not None
        try:
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._drain(time.monotonic() + self._grace)
            process.wait(1)
        except subprocess.TimeoutExpired:
            pass
        finally:
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
            process.kill()
            process.wait()

    def collect(self, order: Order, questions: Sequence[Question] = ()) -> Record:
        """One round trip: the record of the questions, or of all that the facts ask where there are none."""
        asked = [[each.kind, each.path, *each.args] for each in questions]
        self._send(json.dumps({"do": "collect", **asdict(order), "questions": asked}).encode())
        return recording.unpack(self._frame(REPLY_LIMIT), f"--host {self.host}")

    def call(self, request: Mapping[str, Any], contents: Iterable[bytes] = ()) -> Iterator[tuple[str, Any]]:
        """Ask something of the device's zoo (auditor/zoo/remote.py); yields its replies, the last of which is an `end`.

        Raises UsageError for what was named wrongly, Lost, and AuditError where that process has ended or says what it cannot say.
        """
        self._grace = _CLEAN_SECONDS
        self._send(json.dumps(request).encode())
        for content in contents:
            self._send(b"=" + content)
        while True:
            message = _message(self._frame(MESSAGE_LIMIT))
            if message is None:
                raise AuditError(f"--host {self.host}: the device sent what is no reply of the auditor's")
            kind, content = message
            if kind == "usage":
                raise UsageError(f"{visible(str(content))} (on {self.host})")
            if kind == "ended":
                raise AuditError(f"--host {self.host}: what measures the zoo there ended: {visible(str(content))}{self._last_words()}")
            yield kind, content
            if kind == "end":
                return

    def _frame(self, limit: int) -> bytes:
        """The next frame that is not empty."""
        length = 0
        while not length:
            length = int.from_bytes(self._receive(8), "big")
        if length > limit:
            raise AuditError(f"--host {self.host}: a reply has {length} bytes, expected at most {limit}")
        return self._receive(length)

    def _send(self, data: bytes) -> None:
        stream = self._running().stdin
        assert stream is not None
        view = memoryview(len(data).to_bytes(8, "big") + data)
        try:
            while view:
                view = view[stream.write(view) :]
        except BrokenPipeError:
            raise self._lost() from None

    def _receive(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            part = self._read(min(length, 1 << 20))
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _skip_banner(self) -> None:
        seen = b""
        while not seen.endswith(MARK):
            seen += self._read(1)
            if len(seen) > BANNER_LIMIT:
                raise AuditError(f"--host {self.host}: its shell prints without end where the agent should answer")

    def _read(self, length: int) -> bytes:
        """At least one byte of the agent's output; its errors are kept for the message if it ends."""
        process = self._running()
        assert process.stdout is not None
        assert process.stderr is not None
        deadline = time.monotonic() + self._timeout
        streams = [process.stdout, process.stderr]
        while True:
            ready = select.select(streams, [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                self._grace = 0.0
                raise Lost(f"--host {self.host}: no answer within {self._timeout:.0f} s")
            if process.stderr in ready:
                said = os.read(process.stderr.fileno(), 4096)
                self._errors = (self._errors + said)[-4096:]
                if not said:
                    streams.remove(process.stderr)
            if process.stdout in ready:
                data = os.read(process.stdout.fileno(), length)
                if not data:
                    raise self._lost()
                return data

    def _drain(self, deadline: float) -> None:
        """Wait until the other end has closed; what it still says is read, for it to be able to say it."""
        process = self._running()
        streams = [each for each in (process.stdout, process.stderr) if each]
        while streams and (ready := select.select(streams, [], [], max(0.0, deadline - time.monotonic()))[0]):
            for stream in ready:
                if not os.read(stream.fileno(), 1 << 16):
                    streams.remove(stream)

    def _lost(self) -> Lost:
        """Why the connection ended, in one line: the last thing that ssh or the device's Python said."""
        process = self._running()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
            process.wait(2)
            if process.stderr:
                self._errors += process.stderr.read()
        reason = self._last_words("") or f"the connection ended (exit code {process.poll()})"
        if process.poll() == 127:
            reason = f"the device has no python3 ({reason})"
        return Lost(f"--host {self.host}: {reason}")

    def _last_words(self, lead: str = "; ") -> str:
        """The last line that ssh or the device's Python said; empty where they said nothing."""
        said = [line for line in self._errors.decode("utf-8", "replace").splitlines() if line.strip()]
        return f"{lead}{visible(said[-1].strip())[:300]}" if said else ""

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "used outside its context"
        return self._process


def agent_zip(*, zoo: bool = False) -> bytes:
    """The program's reading code and pyelftools, and what runs the zoo, as a zip; the same code gives the same bytes."""
    out = io.BytesIO()
    left_out = LEFT_OUT if zoo else (*LEFT_OUT, *FOR_THE_ZOO)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for name, content in _sources(resources.files(package), package, left_out if package == "auditor" else ()):
                archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _sources(folder: Traversable, name: str, left_out: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        inner = f"{name}/{each.name}"
        if each.name in left_out:
            continue
        if each.is_dir() and each.name != "__pycache__":
            yield from _sources(each, inner)
        elif each.name.endswith(".py"):
            yield inner, each.read_bytes()


def _message(frame: bytes) -> tuple[str, Any] | None:
    """What a reply says: an object with one key; None for anything else, NaN included, which no document of ours may hold."""
    try:
        document = json.loads(frame, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or len(document) != 1:
        return None
    return next(iter(document.items()))


def _refuse(constant: str) -> None:
    raise ValueError(constant)

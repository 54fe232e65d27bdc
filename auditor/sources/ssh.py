"""A device under test, asked over ssh: one connection by the system's own ssh, so the user's configuration, keys and jumps work.

The program's own reading code goes over as a zip, runs from memory under the device's python3 (3.10 or later), and sends one record
back. Host keys are checked as ssh is configured to; a batch run never asks for a password.
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

from auditor.errors import AuditError
from auditor.model import visible
from auditor.sources import recording

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.abc import Traversable

    from typing_extensions import Self

    from auditor.sources.base import Question
    from auditor.sources.recording import Record

MARK = b"crosml-audit/agent/1\n"
BANNER_LIMIT = 1 << 20
"""Bytes that a login shell may print before the agent speaks."""
REPLY_LIMIT = recording.MAX_FILE
PACKAGES = ("auditor", "elftools")
LEFT_OUT = ("data", "inference", "zoo", "verify", "cli.py", "audit.py", "codec.py", "engine.py", "registry.py", "requirements.py")
"""Of this program, what the agent does not need on the device."""

_BOOT = (
    "import os,sys;"
    "sys.version_info<(3,10) and sys.exit('crosml-audit needs python3 of at least 3.10 on the device, found '+sys.version.split()[0]);"
    "i=sys.stdin.buffer;f=os.memfd_create('crosml-audit');n=int.from_bytes(i.read(8),'big');os.write(f,b'');"
    "w=os.fdopen(os.dup(f),'wb');w.write(i.read(n));w.close();sys.dont_write_bytecode=True;"
    "sys.path.insert(0,'/proc/self/fd/%d'%f);from auditor.agent import main;main()"
)
_HOST = re.compile(r"(?!-)[^\s'\"\\]+")


@dataclass(frozen=True, slots=True)
class Order:
    """What the agent is told beside the questions: the plan (a JSON text), whether it may try things, who collects, and when."""

    plan: str
    probes: bool
    collector: str
    collected_at: str


class Ssh:
    """One connection to a device; use as a context manager. What it was not asked is `unasked`."""

    kind = "ssh"

    def __init__(self, host: str, options: Sequence[str] = (), timeout: float = 120.0) -> None:
        if not _HOST.fullmatch(host):
            raise AuditError(f"--host {visible(host)}: expected [USER@]HOST")
        self.host = host
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = b""
        self._arguments = ["ssh", "-T", "-o", "BatchMode=yes", *options, "--", host, f'exec python3 -c "{_BOOT}"']

    def __enter__(self) -> Self:
        """Connect, and send the agent."""
        try:
            self._process = subprocess.Popen(
                self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise AuditError(f"--host {self.host}: ssh cannot be run: {error.strerror}") from None
        agent = agent_zip()
        self._send(agent)
        self._skip_banner()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up; the agent ends with its input."""
        process = self._process
        if process is None:
            return
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def collect(self, order: Order, questions: Sequence[Question] = ()) -> Record:
        """One round trip: the record of the questions, or of all that the facts ask where there are none."""
        request: dict[str, Any] = {**asdict(order), "questions": [[each.kind, each.path, *each.args] for each in questions]}
        self._send(json.dumps(request).encode())
        length = int.from_bytes(self._receive(8), "big")
        if length > REPLY_LIMIT:
            raise AuditError(f"--host {self.host}: the record has {length} bytes, expected at most {REPLY_LIMIT}")
        return recording.unpack(self._receive(length), f"--host {self.host}")

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
                raise AuditError(f"--host {self.host}: no answer within {self._timeout:.0f} s")
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

    def _lost(self) -> AuditError:
        """Why the connection ended, in one line: the last thing that ssh or the device's Python said."""
        process = self._running()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
            process.wait(2)
            if process.stderr:
                self._errors += process.stderr.read()
        said = [line for line in self._errors.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = visible(said[-1].strip())[:300] if said else f"the connection ended (exit code {process.poll()})"
        if process.poll() == 127:
            reason = f"the device has no python3 ({reason})"
        return AuditError(f"--host {self.host}: {reason}")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "used outside its context"
        return self._process


def agent_zip() -> bytes:
    """The program's reading code and pyelftools, as a zip; the same code gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for name, content in _sources(resources.files(package), package):
                archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        inner = f"{name}/{each.name}"
        if name == "auditor" and each.name in LEFT_OUT:
            continue
        if each.is_dir() and each.name != "__pycache__":
            yield from _sources(each, inner)
        elif each.name.endswith(".py"):
            yield inner, each.read_bytes()

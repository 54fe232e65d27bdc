"""The process that audits are forked from: it has everything imported, so an audit costs a fork and not a start of Python.

The controller starts one, by `python -m auditor.fleet.worker DESCRIPTOR LOCK`, with one end of a socket that keeps messages apart. It asks

    {"do": "start", …}                    the fields of `Job`: audit a device, in a process of its own
    {"do": "end", "device", "signal"}     SIGTERM to end in order, SIGKILL

and hears

    {"ready": true}                       once
    {"device", "attempt", "stage"}        what an audit is at
    {"device", "attempt", "code"}         how its process ended: its exit code, or minus the signal

An audit writes `report.json`, `report.html`, `device.snapshot`, `log.txt` and last `result.json`, the `Ended` that counts. Where the
controller is gone the socket ends, and with it every audit. What an audit leaves running is ended with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from auditor import files
from auditor.codec import decode_json
from auditor.engine import Selection
from auditor.errors import AuditError, UsageError
from auditor.fleet.results import Ended, Failure, outcomes
from auditor.model import visible
from auditor.request import Request
from auditor.sources.ssh import Loss, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from auditor.model import Report
    from auditor.sources.recording import Record

MESSAGE_LIMIT = 1 << 17
"""Bytes of one message; the socket's buffer takes 200 KiB."""
GRACE = 12.0
"""Seconds that audits have to end in order: ssh has 5 of them to hang up."""
RESULT = "result.json"
RESULT_LIMIT = 1 << 20

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_STAGE_SECONDS = 0.5
_FAILURES = {
    Loss.UNREACHABLE: Failure.UNREACHABLE,
    Loss.REFUSED: Failure.REFUSED,
    Loss.UNSUITED: Failure.UNSUITED,
    Loss.WRONG: Failure.WRONG_ANSWER,
    Loss.CUT: Failure.LOST,
}


class Stopped(BaseException):
    """The controller ends this audit; nothing may take it for an interrupted measurement, which would be a result."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to audit one device, and the folder for what comes of it."""

    device: str
    attempt: int
    folder: str
    request: Request

    def document(self) -> dict[str, Any]:
        """The job as JSON."""
        return {**asdict(self), "request": {**asdict(self.request), "today": self.request.today.isoformat()}}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Job:
        """The job of a document of ours."""
        asked = {key: _tuples(value) for key, value in document["request"].items()}
        asked["today"] = datetime.date.fromisoformat(asked["today"])
        asked["selection"] = Selection(*(tuple(asked["selection"][name]) for name in ("only", "skip")))
        return cls(document["device"], document["attempt"], document["folder"], Request(**asked))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_result(folder: str, device: str, attempt: int) -> Ended | None:
    """What an attempt came to, where its process got to its end; None where it did not."""
    path = os.path.join(folder, RESULT)
    if not os.path.exists(path):
        return None
    ended = decode_json(files.read(path, RESULT_LIMIT, path, AuditError), Ended, path)
    return ended if (ended.device, ended.attempt) == (device, attempt) else None


def audit_device(job: Job, progress: Callable[[str], None]) -> Ended:
    """Audit a device and write what comes of it to the job's folder; the `Ended` is not written. Raises AuditError where that cannot be."""
    from auditor import audit  # noqa: PLC0415  # what is heavy has been imported by the process that this one was forked from

    start = time.monotonic()
    try:
        audited = audit.audit(job.request, progress)
    except Lost as error:
        ended = Ended(job.device, job.attempt, None, _FAILURES[error.loss], str(error))
    except UsageError as error:
        ended = Ended(job.device, job.attempt, None, Failure.USAGE, str(error))
    except AuditError as error:
        ended = Ended(job.device, job.attempt, None, Failure.WRONG_ANSWER, str(error))
    else:
        write_reports(job.folder, audited.report, audited.record)
        cut = _cut_short(audited.record, job.request.host or "")
        failure = Failure.LOST if cut else None
        kernel = audited.report.device.kernel or ""
        ended = Ended(job.device, job.attempt, audited.report.verdict, failure, cut, 0.0, kernel, outcomes(audited.report))
    return replace(ended, message=_short(ended.message, job.request.host or ""), seconds=round(time.monotonic() - start, 3))


def write_reports(folder: str, report: Report, record: Record) -> None:
    """The report and the snapshot of a device, so that no power cut takes them."""
    from auditor.sources.recording import pack  # noqa: PLC0415
    from reports import html, json  # noqa: PLC0415

    for name, data in (
        ("device.snapshot", pack(record)),
        ("report.html", html.render(report).encode()),
        ("report.json", json.render(report).encode()),
    ):
        files.write(os.path.join(folder, name), data, durable=True)


def _cut_short(record: Record, host: str) -> str:
    """What ended the measurement of the zoo before its time, where that was the connection or the agent; empty where it was not."""
    from auditor.facts.plan import read_plan  # noqa: PLC0415
    from auditor.facts.reading import Device  # noqa: PLC0415
    from auditor.sources.recording import Replay  # noqa: PLC0415

    note = read_plan(Device(Replay(record))).open().zoo_note
    return note if note.startswith(f"--host {host}: ") else ""


def _short(message: str, host: str) -> str:
    """A message without the option that names the host: it stands beside the device's name."""
    return visible(message.removeprefix(f"--host {host}: "))[:500]


def main() -> None:
    """Serve the controller until it hangs up. The lock, which nobody reads, is held until the last audit has ended."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _Server(control).serve()


class _Server:
    """Forks audits, and tells how they end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._audits: dict[int, Job] = {}
        self._woken, wake = os.pipe()
        for descriptor in (self._woken, wake):
            os.set_blocking(descriptor, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the controller says when
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)  # what an audit leaves running becomes a child of this process

    def serve(self) -> None:
        """Do what the controller says, until it is gone and every audit has ended."""
        _import_everything()
        self._control.sendall(b'{"ready": true}')
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._control in ready:
                message = self._control.recv(MESSAGE_LIMIT)
                if not message:
                    break
                self._obey(json.loads(message))
        self._end_all()

    def _obey(self, document: Mapping[str, Any]) -> None:
        if document["do"] == "start":
            job = Job.read(document)
            pid = os.fork()
            if not pid:
                _audit(job, self._control)
            self._audits[pid] = job
            return
        for pid, job in self._audits.items():
            if job.device == document["device"]:
                os.kill(pid, document["signal"])

    def _reap(self) -> None:
        """Tell of audits that have ended, and end what they left running."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                job = self._audits.pop(pid, None)
                if job is None:
                    continue
                code = os.waitstatus_to_exitcode(status)
                if code:
                    self._end_orphans()
                with contextlib.suppress(OSError):  # the controller may be gone
                    self._control.sendall(json.dumps({"device": job.device, "attempt": job.attempt, "code": code}).encode())

    def _end_orphans(self) -> None:
        import psutil  # noqa: PLC0415

        for child in psutil.Process().children():
            if child.pid not in self._audits:
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def _end_all(self) -> None:
        end = time.monotonic() + GRACE
        for pid in self._audits:
            os.kill(pid, signal.SIGTERM)
        while self._audits and time.monotonic() < end:
            self._reap()
            time.sleep(0.02)
        for pid in self._audits:
            os.kill(pid, signal.SIGKILL)
        while self._audits:
            self._reap()
            time.sleep(0.02)
        self._end_orphans()


def _import_everything() -> None:
    """What an audit takes: the code, the agent that goes over, the checks.

    What is here now is not looked at by the collector of garbage, so that forked processes share it.
    """
    import psutil  # noqa: F401, PLC0415

    from auditor import audit, registry, requirements  # noqa: F401, PLC0415
    from auditor.sources.ssh import agent_zip  # noqa: PLC0415

    registry.checks()
    registry.formats()
    requirements.load()
    agent_zip()
    gc.collect()
    gc.freeze()


def _audit(job: Job, control: socket.socket) -> NoReturn:
    """The whole life of a process that audits one device; its exit code is 0 where `result.json` says what came of it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _stop)
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
        os.setsid()
        _log_to(os.path.join(job.folder, "log.txt"))
        ended = audit_device(job, _Stages(job, control).tell)
        print(f"{_clock()} {ended.told}{': ' if ended.message else ''}{ended.message}", file=sys.stderr, flush=True)
        files.write(os.path.join(job.folder, RESULT), json.dumps(ended.document()).encode(), durable=True)
        code = 0
    except Stopped:
        print(f"{_clock()} ended by the controller", file=sys.stderr, flush=True)
    except AuditError as error:  # a report that cannot be written
        print(f"{_clock()} {visible(str(error))}", file=sys.stderr, flush=True)
        code = 4
    except BaseException:  # noqa: BLE001  # a defect, which the log tells of
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is hung up on must not be hung up on again
    raise Stopped


def _log_to(path: str) -> None:
    """Have all that is printed go to a log."""
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor, place in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _clock() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Stages:
    """Logs what an audit is at, and tells the controller now and then."""

    def __init__(self, job: Job, control: socket.socket) -> None:
        self._job = job
        self._control = control
        self._next = 0.0
        self._last = ""

    def tell(self, text: str) -> None:
        """An audit is at something."""
        if text != self._last:
            self._last = text
            print(f"{_clock()} attempt {self._job.attempt}: {visible(text)[:500]}", file=sys.stderr, flush=True)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _STAGE_SECONDS
            message = {"device": self._job.device, "attempt": self._job.attempt, "stage": visible(text)[:200]}
            with contextlib.suppress(OSError):  # the controller is gone, or has no time
                self._control.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


if __name__ == "__main__":
    main()

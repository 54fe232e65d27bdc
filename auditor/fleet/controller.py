"""One run over a fleet: which audit starts when, what is tried again, what the journal is told, how all ends.

A single loop. Audits are processes of `auditor.fleet.worker`, so the memory here grows with what they came to and not with what they did.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from auditor import files
from auditor.errors import AuditError, UsageError
from auditor.fleet import worker
from auditor.fleet.inventory import Member
from auditor.fleet.journal import SCHEMA, Journal, now, read, runs
from auditor.fleet.results import Ended, Failure, exit_code
from auditor.fleet.worker import Job, read_result
from auditor.model import EXIT_FAILED, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from auditor.fleet.inventory import Inventory
    from auditor.fleet.journal import State

DEVICES = "devices"
LONGEST_PAUSE = 600.0
"""Seconds between two attempts, however many there were."""
_TICK = 1.0


class Watcher(Protocol):
    """Who is told what happens."""

    def started(self, device: str, attempt: int) -> None:
        """An audit began."""

    def stage(self, device: str, text: str) -> None:
        """What an audit is at."""

    def ended(self, ended: Ended, again: float | None) -> None:
        """An attempt ended; another is made after `again` seconds."""

    def tick(self, waiting: int) -> None:
        """Time goes by; so many devices wait for their turn."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over, or was interrupted: its folder, how each device ended, the exit code."""

    folder: str
    name: str
    ended: Mapping[str, Ended]
    exit: int
    complete: bool


@dataclass(slots=True)
class _Running:
    member: Member
    attempt: int
    deadline: float
    signalled: int = 0


@dataclass(slots=True)
class _Queue:
    """Devices that wait for their turn, by the groups they are in: where a group is full, nobody looks at who waits for it."""

    bounds: Mapping[str, int]
    waiting: dict[tuple[str, ...], deque[tuple[Member, int]]] = field(default_factory=dict)
    later: list[tuple[float, str, Member, int]] = field(default_factory=list)
    busy: Counter[str] = field(default_factory=Counter)

    def add(self, member: Member, attempt: int, at: float = 0.0) -> None:
        """Have a device audited, not before `at` (monotonic seconds)."""
        if at > time.monotonic():
            heapq.heappush(self.later, (at, member.name, member, attempt))
        else:
            self.waiting.setdefault(member.groups, deque()).append((member, attempt))

    def next(self) -> tuple[Member, int] | None:
        """The next device that no group stands against; it is counted as busy."""
        while self.later and self.later[0][0] <= time.monotonic():
            _at, _name, member, attempt = heapq.heappop(self.later)
            self.add(member, attempt)
        for groups, queue in self.waiting.items():
            if queue and all(self.busy[name] < self.bounds[name] for name in groups):
                # a combination of groups goes to the end, so that none starves another
                self.waiting[groups] = self.waiting.pop(groups)
                self.busy.update(groups)
                return queue.popleft()
        return None

    def done(self, member: Member) -> None:
        """A device has been audited."""
        self.busy.subtract(member.groups)

    def __len__(self) -> int:
        return len(self.later) + sum(map(len, self.waiting.values()))


class _Workers:
    """The process that audits are forked from, and the socket to it."""

    def __init__(self, journal: Journal) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lock = journal.descriptor
        try:
            # in a session of its own: a terminal's Ctrl-C is for the controller
            self._process = subprocess.Popen(
                [sys.executable, "-m", "auditor.fleet.worker", str(theirs.fileno()), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lock),
                start_new_session=True,
            )
        finally:
            theirs.close()

    def __enter__(self) -> Self:
        """Wait until everything is imported: no device's time runs meanwhile."""
        try:
            self.heard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up: whatever still runs is ended."""
        self.socket.close()
        try:
            self._process.wait(worker.GRACE + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tell(self, **message: Any) -> None:
        """Ask it something. Raises AuditError where it is gone."""
        data = json.dumps(message).encode()
        if len(data) > worker.MESSAGE_LIMIT:
            raise AuditError(f"fleet: the options of {message.get('device')} take more than {worker.MESSAGE_LIMIT} bytes")
        try:
            self.socket.sendall(data)
        except OSError:
            raise self.gone() from None

    def heard(self) -> dict[str, Any]:
        """Its next message. Raises AuditError where it is gone."""
        try:
            data = self.socket.recv(worker.MESSAGE_LIMIT)
        except ConnectionError:
            data = b""
        if not data:
            raise self.gone()
        message: dict[str, Any] = json.loads(data)
        return message

    def gone(self) -> AuditError:
        """What is said of it when it is gone."""
        return AuditError("fleet: the process that audits are started from ended; --resume continues")


class _Signals:
    """SIGINT, SIGTERM and SIGHUP as something to wait for: how many came."""

    def __init__(self) -> None:
        self.count = 0
        self.woken, self._wake = os.pipe()
        for descriptor in (self.woken, self._wake):
            os.set_blocking(descriptor, False)
        self._before: dict[int, Any] = {}
        self._descriptor = -1

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._came)
        self._descriptor = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._descriptor)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.woken)
        os.close(self._wake)

    def _came(self, *_: object) -> None:
        self.count += 1


def folder_of(folder: str, device: str) -> str:
    """Where the files of a device of a run are."""
    return os.path.join(folder, DEVICES, device)


def begin(output: str, inventory: Inventory, *, resume: bool) -> tuple[str, bool]:
    """The folder of the run to carry out, and whether it has a journal that is to be continued.

    To resume is to continue the last run; where there is none, to begin one. Raises UsageError where its inventory was another.
    """
    last = next(runs(output), None) if resume else None
    state = read(last) if last else None
    if last and state and state.run:
        if state.inventory != inventory.sha256:
            raise UsageError(visible(f"--resume: {last}: began with another inventory; leave --resume out to begin a new run"))
        return last, True
    name = now().replace(":", "").replace("-", "").replace("+0000", "Z")
    try:
        os.makedirs(output, exist_ok=True)
        for number in range(1000):
            folder = os.path.join(output, f"{name}-{number:03}" if number else name)
            if not os.path.exists(folder):
                os.makedirs(os.path.join(folder, DEVICES))
                files.sync_folder(output)
                return folder, False
    except OSError as error:
        raise AuditError(visible(f"{error.filename or output}: {error.strerror}")) from None
    raise AuditError(visible(f"{output}: expected a new name for the run, {name} is taken"))


def carry_out(inventory: Inventory, folder: str, watcher: Watcher, write: Callable[[Run], None]) -> Run:
    """Carry out the run of a folder, or the rest of it. `write` is called with the run before it is closed.

    Raises AuditError where it cannot go on. What was finished is in the journal then.
    """
    with Journal(folder) as journal, _Signals() as signals:
        state = read(folder)
        if state.run and state.closed is None:
            journal.write("resumed", at=now())
        elif not state.run:
            names = [member.name for member in inventory.members]
            journal.write("run", schema=SCHEMA, run=os.path.basename(folder), at=now(), inventory=inventory.sha256, devices=names)
        fleet = _Fleet(inventory, folder, journal, watcher, signals)
        fleet.recover(state)
        if fleet.queue:
            with _Workers(journal) as workers:
                fleet.work(workers)
        code = EXIT_FAILED if fleet.stopped else exit_code(fleet.ended.values(), len(inventory.members))
        run = Run(folder, os.path.basename(folder), fleet.ended, code, not fleet.stopped)
        write(run)
        if run.complete and state.closed != run.exit:
            journal.write("closed", at=now(), exit=run.exit)
        return run


class _Fleet:
    """The devices of a run, on their way."""

    def __init__(self, inventory: Inventory, folder: str, journal: Journal, watcher: Watcher, signals: _Signals) -> None:
        self._inventory = inventory
        self._folder = folder
        self._journal = journal
        self._watcher = watcher
        self._signals = signals
        self._running: dict[str, _Running] = {}
        self.queue = _Queue(inventory.groups)
        self.ended: dict[str, Ended] = {}
        self.stopped = False

    def recover(self, state: State) -> None:
        """Queue what a journal does not have as finished. An attempt that got to its end unseen counts."""
        for member in self._inventory.members:
            ended, started = state.ended.get(member.name), state.started.get(member.name, 0)
            if started > (ended.attempt if ended else 0):
                unseen = read_result(folder_of(self._folder, member.name), member.name, started)
                if unseen:
                    self._journal.ended(unseen)
                    ended = unseen
            if ended:
                self.ended[member.name] = ended
            if ended is None or ended.again(self._inventory.attempts):
                self.queue.add(member, ended.attempt + 1 if ended else 1)

    def work(self, workers: _Workers) -> None:
        """Audit whatever is queued."""
        while self._running or (self.queue and not self.stopped):
            self._start(workers)
            self._watcher.tick(len(self.queue))
            ready = select.select([workers.socket.fileno(), self._signals.woken], [], [], self._patience())[0]
            if self._signals.woken in ready:
                os.read(self._signals.woken, 4096)
                self._stop(workers)
            if workers.socket.fileno() in ready:
                self._hear(workers)
            self._end_late(workers)

    def _patience(self) -> float:
        times = [each.deadline for each in self._running.values()]
        times += [at for at, *_ in self.queue.later[:1]]
        return max(0.0, min([_TICK, *(at - time.monotonic() for at in times)]))

    def _start(self, workers: _Workers) -> None:
        while not self.stopped and len(self._running) < self._inventory.parallel and (found := self.queue.next()):
            member, attempt = found
            folder = folder_of(self._folder, member.name)
            _cleared(folder)
            self._journal.write("started", device=member.name, attempt=attempt, at=now())
            workers.tell(do="start", **Job(member.name, attempt, folder, member.request).document())
            self._running[member.name] = _Running(member, attempt, time.monotonic() + self._inventory.deadline)
            self._watcher.started(member.name, attempt)

    def _hear(self, workers: _Workers) -> None:
        message = workers.heard()
        running = self._running.get(message["device"])
        if running is None or running.attempt != message["attempt"]:
            return
        if "stage" in message:
            self._watcher.stage(message["device"], message["stage"])
            return
        del self._running[running.member.name]
        self.queue.done(running.member)
        ended = self._came_to(running, message["code"])
        if ended is not None:
            self._ended(running.member, ended)

    def _came_to(self, running: _Running, code: int) -> Ended | None:
        """What an attempt came to whose process ended with `code`; None where it was ended before it came to anything."""
        name, folder = running.member.name, folder_of(self._folder, running.member.name)
        ended = read_result(folder, name, running.attempt) if code == 0 else None
        if ended:
            return ended
        if running.signalled and not self.stopped:
            seconds = self._inventory.deadline
            return Ended(name, running.attempt, None, Failure.DEADLINE, f"not finished within {seconds:g} s", seconds)
        if self.stopped:
            return None
        if code < 0:
            return Ended(name, running.attempt, None, Failure.KILLED, f"signal {-code} ({signal.strsignal(-code)})")
        if code == EXIT_FAILED:
            raise AuditError(f"{name}: {_last_line(os.path.join(folder, 'log.txt'))}")
        return Ended(name, running.attempt, None, Failure.DEFECT, _last_line(os.path.join(folder, "log.txt")))

    def _ended(self, member: Member, ended: Ended) -> None:
        self._journal.ended(ended)
        self.ended[member.name] = ended
        again = ended.again(self._inventory.attempts) and not self.stopped
        pause = min(LONGEST_PAUSE, self._inventory.pause * 2 ** (ended.attempt - 1)) if again else None
        if pause is not None:
            self.queue.add(member, ended.attempt + 1, time.monotonic() + pause)
        self._watcher.ended(ended, pause)

    def _stop(self, workers: _Workers) -> None:
        """The first signal ends every audit in order, the second at once."""
        self.stopped = True
        number = signal.SIGTERM if self._signals.count < 2 else signal.SIGKILL
        for running in self._running.values():
            running.deadline = time.monotonic() + worker.GRACE
            running.signalled = number
            workers.tell(do="end", device=running.member.name, signal=number)

    def _end_late(self, workers: _Workers) -> None:
        """End audits whose time is up: in order, then at once."""
        for running in self._running.values():
            if running.deadline <= time.monotonic():
                running.signalled = signal.SIGKILL if running.signalled else signal.SIGTERM
                running.deadline = time.monotonic() + worker.GRACE
                workers.tell(do="end", device=running.member.name, signal=running.signalled)


def _cleared(folder: str) -> None:
    """The folder of a device, without what an earlier attempt left but its log."""
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            if name != "log.txt":
                os.unlink(os.path.join(folder, name))
    except OSError as error:
        raise AuditError(visible(f"{folder}: {error.strerror}")) from None


def _last_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return visible(lines[-1])[:300] if lines else "no log"

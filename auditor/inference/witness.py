"""Which of the kernel's counts of an accelerator's work are a worker's own, while it runs; each kind of auditor.families.Work.

What a process could have had counted by others is no witness: a count of a whole device is one only while nobody else holds a node of it,
where it rested before anything of the vendor's was there, never went back and never ran faster than the clock. What cannot be read says
nothing. Not excluded: a process that holds the device only between two looks for holders, or has it mapped without a descriptor.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditor.families import FAMILIES, Work
from auditor.inference import work
from auditor.inference.processes import descendants
from auditor.probes.child import restored
from auditor.probes.ioctl import opened
from auditor.probes.tracing import BUFFER_KB, instances, make_instance, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.families import Family
    from auditor.inference.fdinfo import DeviceUse

NAME = "crosml-audit-work"
"""The trace instance."""
SYSTEM = "gpu_scheduler"
EVENTS = ("drm_sched_job_run", "drm_sched_job_done")

SWITCHES = tuple((each.modules[0], each.profiling) for each in FAMILIES.families if each.profiling)
CHANGES = (
    *(f"while a model runs, sets sysfs profiling of a device of {module} to {value}, and sets it back" for module, value in SWITCHES),
    f"while a model runs, makes the trace instance {NAME} in tracefs, with {' and '.join(EVENTS)}, and removes it again",
)

_HOLDERS_NS = 2_000_000_000
"""Between two looks for others that hold a device, which take as long as there are processes."""
_SLACK_NS = 10_000_000
"""By which a count may be ahead of our clock: it is read a moment later."""
_PART = 65_536
_MOST = 32 << 20
"""Bytes of a trace that are read at once."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An accelerator: the name of its family (empty for none), its nodes, and the folders of its parts in sysfs."""

    family: str = ""
    nodes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def entry(self) -> Family | None:
        """Its entry in the table."""
        return FAMILIES.by_name(self.family)

    def counts(self, kind: Work) -> bool:
        """Whether its driver has this evidence."""
        return self.entry is not None and kind in self.entry.work


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a worker's work so far: nanoseconds, of `COMPLETIONS` commands. `notes` say what keeps a kind from counting."""

    amounts: Mapping[Work, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def since(self, before: Counted) -> Counted:
        """What was counted between two readings."""
        return Counted({kind: max(0, amount - before.amounts.get(kind, 0)) for kind, amount in self.amounts.items()}, self.notes)


class Witness:
    """The counts of one worker, which is looked at again and again. `trace` is the folder of a trace instance, if there is one.

    `begin` is to be called before anything of the vendor's is in the worker, and `close` in the end.
    """

    def __init__(self, pid: int, accelerators: Sequence[Watched] = (), proc: str = "/proc") -> None:
        self._pid, self._accelerators = pid, accelerators
        self._engines: dict[tuple[str, str, str], int] = {}
        self._cycles = _Cycles()
        self._devices = [
            _Device(folder, each.nodes, proc) for each in accelerators if each.counts(Work.BUSY_TIME) for folder in each.folders
        ]
        self._contexts: dict[tuple[int, int], int] = {}
        self._clients: frozenset[int] = frozenset()  # the kernel gives none of them twice
        self._jobs, self._busy_ns = work.Jobs(), 0
        self._stack = contextlib.ExitStack()
        self._trace = self._open_trace() if any(each.counts(Work.SCHEDULER) for each in accelerators) else -1
        self._nodes = [self._open(node) for each in accelerators if each.counts(Work.COMPLETIONS) for node in each.nodes]

    def begin(self) -> None:
        """From here on, what is counted may be the worker's."""
        for device in self._devices:
            device.begin()

    def look(self, use: DeviceUse, *, thoroughly: bool = False) -> None:
        """Take what its descriptors said at this moment, and read the rest; `thoroughly` looks for others that hold the device, too."""
        for key, ns in use.engines.items():
            # a lower value is to be passed over (drm-usage-stats.rst)
            self._engines[key] = max(ns, self._engines.get(key, 0))
        self._cycles.add(use.cycles, time.monotonic_ns())
        own = descendants(self._pid) if self._devices or self._nodes else set()
        for device in self._devices:
            device.look(own, thoroughly=thoroughly)
        for node in self._nodes:
            for context, count in ((work.completions(node, own) if node >= 0 else None) or {}).items():
                self._contexts[context] = max(count, self._contexts.get(context, 0))
        self._clients |= use.clients
        self._busy_ns += self._jobs.add(self._read_trace(), self._clients)

    def counted(self) -> Counted:
        """What was counted so far."""
        amounts = {
            Work.ENGINE_TIME: sum(self._engines.values()),
            Work.CYCLES: self._cycles.busy_ns,
            Work.BUSY_TIME: sum(each.busy_ns for each in self._devices if not each.doubt),
            Work.SCHEDULER: self._busy_ns,
            Work.COMPLETIONS: sum(self._contexts.values()),
        }
        return Counted(amounts, tuple(self._notes()))

    def close(self) -> None:
        """Give back what is open."""
        self._stack.close()
        self._trace, self._nodes = -1, []

    def _notes(self) -> Iterator[str]:
        yield from (f"{each.path}: {each.doubt}" for each in self._devices if each.doubt)
        for each in self._accelerators:
            if each.entry is None:
                if any(node.startswith("/dev/vfio/") for node in each.nodes):
                    yield "VFIO: user space drives the device, and the kernel counts nothing of its work."
                continue
            if each.entry.unseen:
                yield each.entry.unseen
            if each.counts(Work.SCHEDULER) and self._trace < 0:
                yield f"{EVENTS[0]}: this kernel has no such event, or its trace cannot be read: it takes Linux 7.2, tracefs and root."
        if any(node < 0 for node in self._nodes):
            yield "DRM_AMDXDNA_GET_ARRAY: a node of the accelerator cannot be opened."

    def _open(self, node: str) -> int:
        try:
            return self._stack.enter_context(opened(node))
        except OSError:
            return -1

    def _open_trace(self) -> int:
        try:
            descriptor = os.open(f"{instances()}/{NAME}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return -1
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _read_trace(self) -> str:
        parts: list[bytes] = []
        with contextlib.suppress(OSError):  # BlockingIOError: it is all read
            while self._trace >= 0 and len(parts) < _MOST // _PART and (part := os.read(self._trace, _PART)):
                parts.append(part)
        return b"".join(parts).decode("ascii", "replace")


class _Cycles:
    """Time that engines worked, of two counters each: those that worked, by those that passed. A single reading shows nothing."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], tuple[int, int, int]] = {}
        self.busy_ns = 0

    def add(self, read: Mapping[tuple[str, str, str], tuple[int, int]], now: int) -> None:
        for key, (busy, total) in read.items():
            first_busy, first_total, since = self._last.get(key, (busy, total, now))
            if total > first_total and busy >= first_busy:
                self.busy_ns += int(min(1.0, (busy - first_busy) / (total - first_total)) * (now - since))
            elif key in self._last:
                continue  # a lower value is to be passed over (drm-usage-stats.rst)
            self._last[key] = (busy, total, now)


class _Device:
    """The busy time of a whole device, and what keeps it from being the worker's."""

    def __init__(self, folder: str, nodes: Sequence[str], proc: str) -> None:
        self._folder, self._nodes, self._proc = folder, nodes, proc
        self.path = f"{folder}/npu_busy_time_us"
        self.busy_ns, self.doubt = 0, ""
        self._at, self._looked = time.monotonic_ns(), 0
        self._last = work.busy_time_us(folder)
        if self._last is None:
            self.doubt = "does not exist, or cannot be read"
        elif not work.sees_all_processes():
            self.doubt = "who else holds the device cannot be seen from a namespace of processes"

    def begin(self) -> None:
        if self._step():
            self.doubt = self.doubt or "it counted work before the run"

    def look(self, own: set[int], *, thoroughly: bool) -> None:
        self.busy_ns += self._step()
        if self.doubt or not (thoroughly or self._at - self._looked > _HOLDERS_NS):
            return
        self._looked = self._at
        others = work.other_holders(self._nodes, own, self._proc)
        if others is None:
            self.doubt = "who else holds the device cannot be seen: it takes root"
        elif others:
            self.doubt = f"other processes hold the device: {', '.join(map(self._named, others[:4]))}"

    def _step(self) -> int:
        """The nanoseconds that it counted since the last reading; 0 once it is in doubt."""
        now, read = time.monotonic_ns(), work.busy_time_us(self._folder)
        before, self._last, passed, self._at = self._last, read, now - self._at, now
        if self.doubt or before is None:
            return 0
        if read is None or read < before:
            self.doubt = "it went back, or could not be read any more"
            return 0
        busy = (read - before) * 1000
        if busy > passed + passed // 20 + _SLACK_NS:
            self.doubt = "it counted more time than passed"
            return 0
        return busy

    def _named(self, pid: int) -> str:
        try:
            with open(f"{self._proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                return f"{file.read(64).strip()} ({pid})"
        except OSError:
            return str(pid)


@contextlib.contextmanager
def counting(accelerators: Sequence[Watched]) -> Iterator[None]:
    """Have the kernel count what it does not count by itself, while this lasts; all is set back in the end, even if we are killed."""
    switches = {
        f"{folder}/profiling": each.entry.profiling
        for each in accelerators
        if each.entry and each.entry.profiling
        for folder in each.folders
    }
    traced = any(each.counts(Work.SCHEDULER) for each in accelerators)
    before = dict(work.readable(switches))
    place = _place() if traced else ""
    if not before and not place:
        yield
        return
    with restored(_setting_back(before, place)):
        for path in before:
            work.set_switch(path, switches[path])
        if place:
            _trace(place)
        yield


def _place() -> str:
    """Where the trace instance is to be; empty where it cannot be, or another audit uses it."""
    try:
        place = f"{instances()}/{NAME}"
        if not all(os.path.isdir(f"{instances()}/../events/{SYSTEM}/{event}") for event in EVENTS):
            return ""
        make_instance(place)
    except OSError:
        return ""
    return place


def _trace(place: str) -> None:
    with contextlib.suppress(OSError):
        write(f"{place}/trace_clock", "mono")
        write(f"{place}/buffer_size_kb", str(BUFFER_KB))
        for event in EVENTS:
            write(f"{place}/events/{SYSTEM}/{event}/enable", "1")


def _setting_back(before: Mapping[str, str], place: str) -> Callable[[], None]:
    def restore() -> None:
        for path, was in before.items():
            work.set_switch(path, was)
        if place:
            with contextlib.suppress(OSError):
                os.rmdir(place)

    return restore

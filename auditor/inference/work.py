"""What the kernel counts of an accelerator's work, read from outside the process that claims it, for each kind in auditor.families.Work.

Of each kind there is a reading. `None` is a reading that could not be had: not seen, which is not idle. `auditor.inference.witness` adds
them up; the engine times and cycles of fdinfo are read in `auditor.inference.fdinfo`.

Sources: Documentation/gpu/drm-usage-stats.rst (drm-cycles-*, drm-total-cycles-*); drivers/accel/ivpu/ivpu_sysfs.c (npu_busy_time_us);
drivers/gpu/drm/scheduler/gpu_scheduler_trace.h of 7.2 (drm_sched_job_run, drm_sched_job_done); include/uapi/drm/amdxdna_accel.h
(DRM_AMDXDNA_GET_ARRAY); drivers/gpu/drm/{panfrost,panthor} (profiling).
"""

from __future__ import annotations

import array
import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING

from auditor.inference.fdinfo import descriptor_tables, descriptors, device_numbers, tasks
from auditor.probes.ioctl import READ, WRITE, call, number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

CLIENTS = 256
"""Processes of an accelerator that are looked at."""

_GET_ARRAY = number(READ | WRITE, "d", 0x4A, 24)
_ENTRY, _FIELDS = 144, ((0, 4), (16, 8), (32, 8))
"""Size of struct amdxdna_drm_hwctx_entry, and where in it are, in so many bytes, the context, the process and its completed commands."""
MAX_JOBS = 1 << 16
"""Jobs that run at the same time."""
_MAX_LINE = 4096
_FIRST_NAMESPACE = 0xEFFFFFFC
"""Inode of the first namespace of processes (include/linux/proc_ns.h, PROC_PID_INIT_INO)."""

_MAPPING = re.compile(rb"[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([1-9][0-9]*)\s")
_EVENT = re.compile(r"^[^\n]*?\s(\d{1,12})\.(\d{6,9}): (drm_sched_job_run|drm_sched_job_done): ([^\n]*)$", re.MULTILINE)
_FENCE = re.compile(r"\bfence[=:](\d{1,20}:\d{1,20})\b")
_CLIENT = re.compile(r"\bclient_id[=:](\d{1,20})\b")


def busy_time_us(sysfs: str) -> int | None:
    """How long the whole device has worked, in microseconds, by its folder in sysfs."""
    try:
        with open(f"{sysfs}/npu_busy_time_us", encoding="ascii") as file:
            text = file.read(32).strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def other_holders(nodes: Collection[str], own: Collection[int], proc: str = "/proc") -> list[int] | None:
    """The processes, beside a worker's own tree, of which a thread holds or maps a node; None where one of them could not be looked at.

    The count of a whole device is the worker's only where nobody else holds a node of it. A descriptor that is on its way from one process
    to another (SCM_RIGHTS) is not seen, nor the mapping of another file of the same device number.
    """
    numbers, files = device_numbers(nodes), _files(nodes)
    found = []
    for pid in sorted(map(int, filter(str.isdecimal, os.listdir(proc)))):
        if pid in own:
            continue
        try:
            folders = [f"{folder}/fd" for folder in descriptor_tables(pid, proc)]
            held = {_number(f"{folder}/{name}") for folder in folders for name in descriptors(folder)}
            maps = bool(_mapped(pid, proc) & files)
        except ProcessLookupError:  # it has ended
            continue
        except OSError:
            return None
        if maps or held & numbers:
            found.append(pid)
    return found


def _files(nodes: Collection[str]) -> set[tuple[int, int]]:
    found = set()
    for node in nodes:
        with contextlib.suppress(OSError):
            status = os.stat(node)
            found.add((status.st_dev, status.st_ino))
    return found


def _mapped(pid: int, proc: str) -> set[tuple[int, int]]:
    """The device and inode of each file that a process maps, by the first of its threads that still has its memory."""
    for task in tasks(pid, proc):
        try:
            with open(f"{proc}/{pid}/task/{task}/maps", "rb") as file:
                found = {
                    (os.makedev(int(each[1], 16), int(each[2], 16)), int(each[3])) for each in map(_MAPPING.match, file) if each is not None
                }
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found:
            return found
    return set()


def sees_all_processes() -> bool:
    """Whether /proc shows the processes of the whole machine: in a container, others may hold a device unseen."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_NAMESPACE
    except OSError:
        return False


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_rdev or None
    except OSError:
        return None


class Jobs:
    """How long jobs of clients (`drm-client-id`) ran, from `drm_sched_job_run` to `drm_sched_job_done`, as a trace is read on.

    The trace is that of an instance of our own, where only events are: what a process writes into the marker of another instance is not in
    it. Jobs that ran at the same time count once, and one whose end was not recorded counts nothing.
    """

    def __init__(self) -> None:
        self._started: dict[str, int] = {}
        self._until = 0
        self._rest = ""

    def add(self, trace: str, clients: Collection[int]) -> int:
        """Read on. Returns the nanoseconds that are new."""
        whole, newline, self._rest = (self._rest + trace).rpartition("\n")
        self._rest = self._rest[-_MAX_LINE:]
        busy = 0
        for seconds, fraction, event, fields in _EVENT.findall(whole + newline):
            at = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
            fence = _FENCE.search(fields)
            if fence is None:
                continue
            if event == "drm_sched_job_run":
                client = _CLIENT.search(fields)
                if client and int(client[1]) in clients and len(self._started) < MAX_JOBS:
                    self._started.setdefault(fence[1], at)
            elif fence[1] in self._started:
                busy += max(0, at - max(self._started.pop(fence[1]), self._until))
                self._until = max(self._until, at)
        return busy


def completions(node: int, own: Collection[int], ask: Callable[..., tuple[int, ...]] = call) -> dict[tuple[int, int], int] | None:
    """The commands that amdxdna has completed for these processes, by context and process, by an open node; None where it does not tell."""
    memory = array.array("B", bytes(_ENTRY * CLIENTS))
    try:
        count = ask(node, _GET_ARRAY, "=IIIIQ", 0, _ENTRY, CLIENTS, 0, memory.buffer_info()[0])[2]
    except OSError:
        return None
    entries = (memory.tobytes()[at * _ENTRY : (at + 1) * _ENTRY] for at in range(min(count, CLIENTS)))
    told = (tuple(int.from_bytes(each[at : at + size], sys.byteorder) for at, size in _FIELDS) for each in entries)
    return {(context, pid): done for context, pid, done in told if pid in own}


def readable(switches: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What switches are set to (panfrost's and panthor's sysfs `profiling`), of those that can be read."""
    for path in switches:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            yield path, file.read(32).strip()


def set_switch(path: str, value: str) -> None:
    """Set a switch, unless it is so; one that may not be written is left alone."""
    with contextlib.suppress(OSError):
        if dict(readable([path])) != {path: value}:
            with open(path, "w", encoding="ascii") as file:
                file.write(value)

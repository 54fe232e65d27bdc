"""What the kernel says of a process from outside: its memory, its processor time, and whether the machine ran out of memory."""

from __future__ import annotations

import ctypes
import math
import os
import time
from dataclasses import dataclass

MAX_DESCRIPTORS = 4096
"""Open files of a worker (its RLIMIT_NOFILE); of a process with more, nothing is said."""
MAX_THREADS = 1024
"""Threads of a worker; of a process with more, nothing is said."""

_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use: seconds until it has started, for any other request seconds and processor seconds, resident bytes."""

    start_seconds: float = 60.0
    request_seconds: float = 30.0
    cpu_seconds: float = math.inf
    memory_bytes: int = 4 << 30


def status_bytes(pid: int, name: str) -> int:
    """Return a `kB` line of /proc/PID/status in bytes; 0 if there is none (the process has ended)."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        return 0
    prefix = name.encode() + b":"
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(prefix)), 0)


def tasks(pid: int) -> list[int]:
    """The threads of a process. Raises ProcessLookupError once it has ended, another OSError where there are too many."""
    try:
        found = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        raise ProcessLookupError from None
    if len(found) > MAX_THREADS:
        raise OSError(f"/proc/{pid}: {len(found)} threads, expected at most {MAX_THREADS}")
    return found


def descriptor_tables(pid: int) -> list[str]:
    """The /proc folder of one thread for each table of descriptors that a process's threads have. Raises as `tasks` does.

    Threads that share one are told by kcmp(2), where the kernel has it.
    """
    found: list[int] = []
    for task in tasks(pid):
        if not any(_share_descriptors(task, other) for other in found):
            found.append(task)
    return [f"/proc/{pid}/task/{task}" for task in found]


def descriptors(folder: str) -> list[str]:
    """The names in a folder of descriptors; none once the thread has ended. Raises OSError if it cannot be read, or there are too many."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []
    if len(names) > MAX_DESCRIPTORS:
        raise OSError(f"{folder}: {len(names)} descriptors, expected at most {MAX_DESCRIPTORS}")
    return names


def _share_descriptors(task: int, other: int) -> bool:
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return False
    arguments = (ctypes.c_long(value) for value in (number, task, other, _KCMP_FILES, 0, 0))
    return bool(ctypes.CDLL(None).syscall(*arguments) == 0)


def oom_kills() -> int:
    """Return how many processes this kernel has ended for want of memory (/proc/vmstat, Linux 4.13)."""
    try:
        with open("/proc/vmstat", "rb") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)


def cpu_ns(pid: int) -> int:
    """Processor time of all threads of a process, ended ones too, in ns; 0 once it is gone.

    A thread that runs at this moment may be behind by a scheduler's tick; nothing is lost in the next reading. The clock's id is
    the one clock_getcpuclockid(3) makes: ~pid << 3 | CPUCLOCK_SCHED. Processes that it started are not counted.
    """
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0

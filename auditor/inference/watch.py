"""What the kernel says of a process from outside: its processor time, and whether the machine ran out of memory."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use: seconds until it has started, for any other request seconds and processor seconds, resident bytes."""

    start_seconds: float = 60.0
    request_seconds: float = 30.0
    cpu_seconds: float = math.inf
    memory_bytes: int = 4 << 30


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

"""What the kernel counts of an accelerator's work, read from outside the process that claims it, for each kind in auditor.families.Work.

Of each kind there is a reading, and what two readings say. `None` is a reading that could not be had: not seen, which is not idle. The
engine times of fdinfo are read in `auditor.inference.fdinfo`.

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

from auditor.probes.ioctl import READ, WRITE, call, number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

CLIENTS = 256
"""Processes of an accelerator that are looked at."""

_GET_ARRAY = number(READ | WRITE, "d", 0x4A, 24)
_ENTRY, _PID, _COMPLETIONS = 144, 16, 32
"""Size of struct amdxdna_drm_hwctx_entry, and where in it the process and its completed commands are."""

_CYCLES, _TOTAL = "drm-cycles-", "drm-total-cycles-"
_EVENT = re.compile(r"^[^\n]*?\s(\d{1,12})\.(\d{6,9}): (drm_sched_job_run|drm_sched_job_done): ([^\n]*)$", re.MULTILINE)
_FENCE = re.compile(r"\bfence[=:](\d{1,20}:\d{1,20})\b")
_CLIENT = re.compile(r"\bclient_id[=:](\d{1,20})\b")


def cycles(text: str) -> dict[str, tuple[int, int]]:
    """The cycles that each engine worked for a client, and that passed, of one fdinfo text; what is no number is left out."""
    lines = (line.partition(":") for line in text.split("\n"))
    told = ((key, value.strip()) for key, _, value in lines if key.startswith((_CYCLES, _TOTAL)))
    found = {key: int(value) for key, value in told if value.isascii() and value.isdecimal()}
    engines = [key.removeprefix(_CYCLES) for key in found if key.startswith(_CYCLES)]
    return {name: (found[_CYCLES + name], found[_TOTAL + name]) for name in engines if _TOTAL + name in found}


def cycles_share(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float:
    """The share of the time between two readings that the busiest engine worked for the client, 0 to 1."""
    shares = [0.0]
    for name, (busy, total) in after.items():
        first_busy, first_total = before.get(name, (0, 0)) if name in before else (busy, total)
        if total > first_total and busy >= first_busy:
            shares.append(min(1.0, (busy - first_busy) / (total - first_total)))
    return max(shares)


def busy_time_us(sysfs: str) -> int | None:
    """How long the whole device has worked, in microseconds, by its folder in sysfs."""
    try:
        with open(f"{sysfs}/npu_busy_time_us", encoding="ascii") as file:
            text = file.read(32).strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def other_holders(nodes: Collection[str], own: Collection[int], proc: str = "/proc") -> list[int] | None:
    """The processes, beside a worker's own tree, that hold a node; None where one of them could not be looked at.

    The count of a whole device is the worker's only where nobody else holds a node of it.
    """
    numbers = set()
    for node in nodes:
        with contextlib.suppress(OSError):
            numbers.add(os.stat(node).st_rdev)
    found = []
    for name in sorted(filter(str.isdecimal, os.listdir(proc)), key=int):
        if int(name) in own:
            continue
        try:
            held = {_number(f"{proc}/{name}/fd/{each}") for each in os.listdir(f"{proc}/{name}/fd")}
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except OSError:
            return None
        if held & numbers:
            found.append(int(name))
    return found


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_rdev or None
    except OSError:
        return None


def scheduler_busy_ns(trace: str, clients: Collection[int]) -> int:
    """How long jobs of these clients (`drm-client-id`) ran, in nanoseconds: from `drm_sched_job_run` to `drm_sched_job_done`.

    A job whose end was not recorded counts nothing. `trace` is that of an instance of our own, where only events are: what a process
    writes into the marker of another instance is not in it.
    """
    started: dict[str, int] = {}
    busy = 0
    for seconds, fraction, event, fields in _EVENT.findall(trace):
        at = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        fence = _FENCE.search(fields)
        if fence is None:
            continue
        if event == "drm_sched_job_run":
            client = _CLIENT.search(fields)
            if client and int(client[1]) in clients:
                started.setdefault(fence[1], at)
        elif fence[1] in started:
            busy += max(0, at - started.pop(fence[1]))
    return busy


def completions(node: int, own: Collection[int], ask: Callable[..., tuple[int, ...]] = call) -> int | None:
    """The commands that amdxdna has completed for these processes, by an open node; None where it does not tell."""
    memory = array.array("B", bytes(_ENTRY * CLIENTS))
    try:
        count = ask(node, _GET_ARRAY, "=IIIIQ", 0, _ENTRY, CLIENTS, 0, memory.buffer_info()[0])[2]
    except OSError:
        return None
    entries = (memory.tobytes()[at * _ENTRY : (at + 1) * _ENTRY] for at in range(min(count, CLIENTS)))
    told = ((int.from_bytes(each[_PID : _PID + 8], sys.byteorder), each[_COMPLETIONS : _COMPLETIONS + 8]) for each in entries)
    return sum(int.from_bytes(done, sys.byteorder) for pid, done in told if pid in own)


@contextlib.contextmanager
def profiling(folders: Iterable[str], value: str) -> Iterator[tuple[str, ...]]:
    """Have drivers count their engines' time while this lasts (panfrost: 1, panthor: 3), and set back what was there before.

    Yields the switches that were set; one that may not be written is left alone.
    """
    before: dict[str, str] = {}
    try:
        for folder in folders:
            path = f"{folder}/profiling"
            with contextlib.suppress(OSError):
                with open(path, encoding="ascii") as file:
                    was = file.read(32).strip()
                if was != value:
                    _write(path, value)
                before[path] = was
        yield tuple(before)
    finally:
        for path, was in before.items():
            with contextlib.suppress(OSError):
                _write(path, was)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)

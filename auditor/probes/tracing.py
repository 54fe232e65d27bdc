"""The tracing probe: trace events are enabled, the accelerators are put to work, and what they emitted is counted.

    {"schema": "crosml-audit/probe/1", "probe": "tracing",
     "counts": {"edu_accel:edu_copy": 9, "iommu:map": 20},
     "samples": {"edu_accel:edu_copy": "edu_copy: 0000:00:05.0 handle=1 length=64 result=0"},
     "work": [{"accelerator": "pci:0000:00:05.0", "driver": "edu_accel", "work": "device-copy"}]}

The work is the dma-buf probe's. `device-copy` says that the device moved data; then, and only then, an event of its driver's own trace
system that did not occur is counted as 0. `exchange` says that buffers were allocated or shared, which need not emit anything.

Events are recorded in a trace instance of the probe's own, so nobody else's tracing is changed, and removing it undoes all of it; what
an earlier probe left behind, one that was killed together with its keeper, is removed first. Source: Documentation/trace/ftrace.rst.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from auditor.families import FAMILIES, plain
from auditor.probes import dma_buf
from auditor.probes.nodes import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "crosml-audit"
FOLDERS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

SYSTEMS = frozenset({"dma_fence", "drm", "gpu_scheduler", "iommu"}) | FAMILIES.trace_systems()
"""Trace systems of accelerators' drivers, and those that they share; with these, one that has a driver's name."""

BUFFER_KB = 1024
"""Of the instance, for each processor; older events give way to newer ones."""
TRACE_LIMIT = 32 << 20
"""Bytes of the recorded events that are read."""
EVENTS_LIMIT = 4096
SAMPLE_LIMIT = 300

CHANGES = (
    f"makes the trace instance {NAME} in tracefs, with the events of {', '.join(sorted(SYSTEMS))} and of the drivers, and removes it again",
    *dma_buf.CHANGES,
)


def run() -> dict[str, Any]:
    """The events that were counted; raises OSError: ENODEV without an accelerator, EBUSY where another probe traces."""
    accelerators = [each for each in find() if each.is_accelerator]
    if not accelerators:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    place = f"{instances()}/{NAME}"
    with ExitStack() as stack:
        make_instance(place)
        # An instance with an open file cannot be removed by another probe.
        stack.callback(os.close, os.open(f"{place}/tracing_on", os.O_RDONLY | os.O_CLOEXEC))
        write(f"{place}/buffer_size_kb", str(BUFFER_KB))
        write(f"{place}/options/context-info", "0")
        drivers = {plain(dma_buf.bound(each)) for each in accelerators}
        events = _enable(place, SYSTEMS | drivers)
        results = dma_buf.run()["accelerators"]
        write(f"{place}/tracing_on", "0")
        counts, samples = _counted(place, events)
    work = [{"accelerator": each["accelerator"], "driver": each["driver"], "work": _work(each)} for each in results]
    missed = {event: 0 for event in _expected(events, work) if event not in counts}
    return {"counts": {**counts, **missed}, "samples": samples, "work": work}


def restore() -> None:
    """Remove the instance, which also disables its events; one that another probe uses stays."""
    with suppress(OSError):
        os.rmdir(f"{instances()}/{NAME}")


def instances() -> str:
    """The folder of trace instances; raises OSError. /sys/kernel/tracing is there, but empty, where tracefs is mounted elsewhere."""
    for folder in FOLDERS:
        with suppress(FileNotFoundError):
            os.stat(f"{folder}/instances")
            return f"{folder}/instances"
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def make_instance(place: str) -> None:
    """Make a trace instance, anew where one was left behind; raises OSError: EBUSY where somebody uses it."""
    try:
        os.mkdir(place)
    except FileExistsError:
        os.rmdir(place)
        os.mkdir(place)


def _enable(place: str, systems: Iterable[str]) -> tuple[str, ...]:
    """Enable the events of those systems that there are; the events, as `system:event`."""
    events: list[str] = []
    for system in sorted(set(systems).intersection(os.listdir(f"{place}/events"))):
        write(f"{place}/events/{system}/enable", "1")
        folder = f"{place}/events/{system}"
        events += [f"{system}:{name}" for name in sorted(os.listdir(folder)) if os.path.isdir(f"{folder}/{name}")]
    return tuple(events[:EVENTS_LIMIT])


def _counted(place: str, events: Iterable[str]) -> tuple[Counter[str], dict[str, str]]:
    """How often each event was recorded, and the first of each; a name that two systems have is left out, since a line has no system."""
    known = _by_name(events)
    counts: Counter[str] = Counter()
    samples: dict[str, str] = {}
    with open(f"{place}/trace", encoding="utf-8", errors="backslashreplace") as file:
        read = 0
        while read < TRACE_LIMIT and (line := file.readline(8192)):
            read += len(line)
            event = known.get(line.partition(":")[0].strip())
            if event:
                counts[event] += 1
                samples.setdefault(event, line.strip()[:SAMPLE_LIMIT])
    return counts, samples


def _by_name(events: Iterable[str]) -> Mapping[str, str]:
    names = Counter(event.partition(":")[2] for event in events)
    return {event.partition(":")[2]: event for event in events if names[event.partition(":")[2]] == 1}


def _expected(events: Iterable[str], work: Iterable[Mapping[str, str]]) -> list[str]:
    """The events of the trace systems of drivers whose device moved data."""
    worked = {each["driver"] for each in work if each["work"] == "device-copy"}
    return [event for event in events if event.partition(":")[0] in worked]


def _work(result: Mapping[str, Any]) -> str:
    trials = [*result["exports"], *result["imports"]]
    if any(each["proof"] == "device-copy" for each in trials):
        return "device-copy"
    return "exchange" if any(not each["error"] for each in trials) else "none"


def write(path: str, text: str) -> None:
    """Write to a file of tracefs; raises OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)

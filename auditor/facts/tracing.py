"""Tools to analyse performance: ftrace events of the accelerator's driver, and Perfetto in its user space.

The answer to the question `probe tracing` is one JSON document, events counted while the accelerator worked:

    {"schema": "crosml-audit/probe/1", "probe": "tracing", "counts": {"vpu:job": 12, "dma_fence:dma_fence_signaled": 12}}
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditor.facts.probing import read_probe, text
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Accelerator, DriverEvents, Fact, Listing, Missing, Ok, Tracing
from auditor.families import FAMILIES, plain
from auditor.model import Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Closure

_GENERIC = ("dma_fence", "drm", "gpu_scheduler", "iommu")

_FOLDERS = ("/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events")

_EVENTS_SECTION = "_ftrace_events"
"""The section of a module that lists the trace events it defines (include/linux/trace_events.h, TRACE_EVENT)."""

PERFETTO = "PERFETTO_PRODUCER_SOCK_NAME"
"""The environment variable that Perfetto's client library reads, so a file that holds the library holds its name (perfetto's SDK)."""

_SEARCHED = 64
"""Files of a driver's user space that are searched."""

COUNTS = 4096
"""Events in a probe's document."""


def read_tracing(device: Device, accelerators: Fact[Listing[Accelerator]], closure: Fact[Closure]) -> Tracing:
    """What the kernel traces of the accelerators' drivers, and what a probe counted."""
    items = accelerators.value.items if isinstance(accelerators, Ok) else ()
    folder, listed = _events(device)
    wanted = {system for each in items for system in _expected(each)} | set(_GENERIC)
    return Tracing(
        systems=parse(listed, lambda names: _systems(device, folder, sorted(wanted.intersection(names)))),
        own={each.subject: _own(device, each, listed) for each in items},
        perfetto=_perfetto(device, closure),
        emitted=read_probe(device, "tracing", _counts),
    )


def _events(device: Device) -> tuple[str, Fact[tuple[str, ...]]]:
    """The folder of trace systems, and their names. /sys/kernel/tracing is there, but empty, where tracefs is mounted elsewhere."""
    first, second = _FOLDERS
    listed = device.names(first)
    if isinstance(listed, Missing) and listed.status is Status.ABSENT:
        older = device.names(second)
        return (first, listed) if older.status is Status.ABSENT else (second, older)
    return first, listed


def _systems(device: Device, folder: str, names: list[str]) -> dict[str, tuple[str, ...]]:
    found = {name: device.names(f"{folder}/{name}") for name in names}
    return {
        name: tuple(printable(event) for event in each.value if event not in {"enable", "filter"})
        for name, each in found.items()
        if isinstance(each, Ok)
    }


def _driver(accelerator: Accelerator) -> str:
    return plain(accelerator.driver.value) if isinstance(accelerator.driver, Ok) else ""


def _expected(accelerator: Accelerator) -> tuple[str, ...]:
    """The trace systems in which a driver's events would be: the known ones, else one of its own name."""
    return _known(accelerator) or tuple(filter(None, [_driver(accelerator)]))


def _known(accelerator: Accelerator) -> tuple[str, ...]:
    """The trace systems of the family of an accelerator's driver; empty where the table has no entry, or one without them."""
    family = FAMILIES.by_driver(_driver(accelerator))
    return family.trace if family else ()


def _own(device: Device, accelerator: Accelerator, listed: Fact[tuple[str, ...]]) -> Fact[DriverEvents]:
    """Where the driver's own events are, by either of two signs: its trace system is there, or its module defines events.

    That it has none takes both: no system of its, and either a module without events or a driver whose systems are known.
    """
    driver = accelerator.driver
    if isinstance(driver, Missing):
        return driver
    module = accelerator.module.value.name if isinstance(accelerator.module, Ok) else _driver(accelerator)
    systems = parse(listed, lambda names: tuple(name for name in _expected(accelerator) if name in names))
    sections = device.names(f"/sys/module/{module}/sections")
    defines = parse(sections, lambda names: _EVENTS_SECTION in names)
    signs = [each for each in (systems, defines) if isinstance(each, Ok) and each.value]
    if signs:
        defined = isinstance(defines, Ok) and defines.value
        events = DriverEvents(systems.value if isinstance(systems, Ok) else (), printable(module) if defined else "")
        return Ok(events, (*driver.evidence, *(replace(item, necessary=len(signs) == 1) for item in all_of(*signs))))
    if isinstance(systems, Missing):
        return systems
    if isinstance(defines, Missing) and not (defines.status is Status.ABSENT and _known(accelerator)):
        return defines
    return Ok(DriverEvents((), ""), all_of(driver, systems, defines))


def _perfetto(device: Device, closure: Fact[Closure]) -> Fact[tuple[str, ...]]:
    """The files of the driver's user space that can connect to Perfetto's daemon; Missing where one of them could not be searched."""
    if isinstance(closure, Missing):
        return Missing(Status.UNASKED, closure.evidence, "no user-space driver was named", Remedy.DELEGATE)
    own = [each.path for each in closure.value.objects if not each.system][:_SEARCHED]
    answers = {path: device.ask(base.holds(path, PERFETTO)) for path in own}
    found = tuple(printable(path) for path, answer in answers.items() if isinstance(answer, Ok) and answer.value)
    unread = [answer for answer in answers.values() if isinstance(answer, Missing)]
    return unread[0] if unread and not found else Ok(found, all_of(*(answers[path] for path in own)))


def _counts(document: dict[str, Any]) -> dict[str, int]:
    counts = document["counts"]
    if not isinstance(counts, dict) or len(counts) > COUNTS:
        raise ValueError(f"counts: expected an object of at most {COUNTS} events")
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        raise ValueError("counts: expected numbers of events")
    return {text(event): counts[event] for event in sorted(counts)}

"""misc-2: the driver's own trace events or Perfetto, and events that were really emitted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from auditor.facts.probing import PROBE_SCHEMA
from auditor.facts.types import Facts, Missing, Ok
from auditor.model import Evidence, Outcome, Remedy, Status
from auditor.sources import base
from checks import misc_2
from fixtures.devices import absent, denied, document, linked, names, recorded, unprobed
from fixtures.judging import collected, judged

if TYPE_CHECKING:
    from auditor.sources.recording import Record

NPU = "pci:0000:00:05.0"
SYSFS = "/sys/devices/pci0000:00/0000:00:05.0"
EVENTS = "/sys/kernel/tracing/events"
SECTIONS = "/sys/module/edu_accel/sections"


def found(device: Record | Facts, check=misc_2.tools):
    return judged(device, check)[NPU]


def bound(record: Record, driver: str) -> Record:
    """The record with another driver, built into the kernel."""
    record = linked(absent(record, f"{SYSFS}/driver/module"), f"{SYSFS}/driver", f"../{driver}")
    return absent(names(record, f"/sys/module/{driver}/sections"), f"/sys/module/{driver}/sections")


def perfetto(record: Record, *files: str) -> Facts:
    facts = collected(record)
    evidence = (Evidence("/usr/lib64/libnpu.so", Status.OK),)
    return replace(facts, tracing=replace(facts.tracing, perfetto=Ok(files, evidence)))


NO_SYSTEM = names(recorded(), EVENTS, "dma_fence", "drm")
NO_SECTION = names(recorded(), SECTIONS, ".text")
NEITHER = names(NO_SYSTEM, SECTIONS, ".text")


def test_either_sign_of_trace_events_passes() -> None:
    both = found(recorded())
    assert (both.outcome, both.observed) == (Outcome.PASS, "trace system edu_accel, trace events in the module edu_accel")
    assert {item.path for item in both.evidence if item.necessary} == {f"{SYSFS}/driver"}
    for record, path in (
        (NO_SYSTEM, SECTIONS),
        (denied(recorded(), EVENTS), SECTIONS),
        (NO_SECTION, EVENTS),
        (denied(recorded(), SECTIONS), EVENTS),
    ):
        one = found(record)
        assert one.outcome is Outcome.PASS
        assert {item.path for item in one.evidence if item.necessary} == {f"{SYSFS}/driver", path}


def test_a_mainline_driver_is_looked_for_under_its_own_system() -> None:
    vpu = names(bound(recorded(), "intel_vpu"), EVENTS, "vpu")
    assert (found(vpu).outcome, found(vpu).observed) == (Outcome.PASS, "trace system vpu")
    scheduled = names(bound(recorded(), "panfrost"), EVENTS, "gpu_scheduler")
    assert found(scheduled).observed == "trace system gpu_scheduler"
    other = names(bound(recorded(), "intel_vpu"), EVENTS, "gpu_scheduler", "dma_fence")
    assert found(other).outcome is Outcome.UNKNOWN


def test_perfetto_is_the_other_branch() -> None:
    one = found(perfetto(NEITHER, "libnpu.so"))
    assert (one.outcome, one.observed) == (Outcome.PASS, "Perfetto in libnpu.so")
    assert [item.necessary for item in one.evidence] == [True]
    both = found(perfetto(recorded(), "libnpu.so"))
    assert both.outcome is Outcome.PASS
    assert not any(item.necessary for item in both.evidence)


def test_it_fails_only_where_both_branches_are_known_to_be_empty() -> None:
    assert found(perfetto(NEITHER)).outcome is Outcome.FAIL
    assert found(perfetto(names(bound(recorded(), "intel_vpu"), EVENTS, "drm"))).outcome is Outcome.FAIL
    assert found(NEITHER).outcome is Outcome.UNKNOWN  # the user space was not searched
    assert found(NEITHER).remedy is Remedy.DELEGATE


@pytest.mark.parametrize(
    "record",
    [
        denied(NEITHER, EVENTS),
        absent(NEITHER, SECTIONS),  # built in, and where its events would be is not known
        denied(NEITHER, SECTIONS),
        absent(NEITHER, f"{SYSFS}/driver"),
        denied(NEITHER, f"{SYSFS}/driver"),
        denied(names(bound(recorded(), "intel_vpu"), EVENTS, "drm"), EVENTS),
    ],
)
def test_a_branch_that_cannot_be_read_is_unknown(record: Record) -> None:
    assert found(perfetto(record)).outcome is Outcome.UNKNOWN


def test_the_older_place_of_tracefs_is_looked_at() -> None:
    older = "/sys/kernel/debug/tracing/events"
    moved = names(names(names(absent(NO_SECTION, EVENTS), older, "edu_accel"), f"{older}/edu_accel", "edu_copy"), SECTIONS, ".text")
    assert found(moved).outcome is Outcome.PASS
    assert collected(moved).tracing.systems.open() == {"edu_accel": ("edu_copy",)}


def emitted(**counts: Any) -> Record:
    content = {"schema": PROBE_SCHEMA, "probe": "tracing", "counts": {name.replace("__", ":"): count for name, count in counts.items()}}
    return document(recorded(), base.probe("tracing"), content)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (emitted(edu_accel__edu_copy=3, dma_fence__dma_fence_init=1), Outcome.PASS),
        (emitted(edu_accel__edu_copy=0, dma_fence__dma_fence_init=9), Outcome.FAIL),
        (emitted(dma_fence__dma_fence_init=9), Outcome.UNKNOWN),
        (emitted(), Outcome.UNKNOWN),
        (emitted(edu_accel__edu_copy=-1), Outcome.UNKNOWN),
        (emitted(edu_accel__edu_copy=True), Outcome.UNKNOWN),
        (emitted(edu_accel__edu_copy="3"), Outcome.UNKNOWN),
        (unprobed(), Outcome.UNKNOWN),
    ],
)
def test_emitted_events_are_counted(record: Record, expected: Outcome) -> None:
    assert found(record, misc_2.emitted).outcome is expected


def test_without_a_probe_nothing_was_emitted_that_is_known() -> None:
    facts = collected(unprobed())
    assert isinstance(facts.tracing.emitted, Missing)
    assert facts.tracing.emitted.remedy is Remedy.PROBES

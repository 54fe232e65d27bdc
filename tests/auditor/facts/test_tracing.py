"""Trace events as tracefs and sysfs show them; checks/test_misc_2.py has what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.probing import PROBE_SCHEMA
from auditor.facts.reading import Device
from auditor.facts.tracing import COUNTS, PERFETTO, read_tracing
from auditor.facts.types import Closure, DriverEvents, ElfObject, Listing, Missing, Ok
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from fixtures.devices import absent, denied, document, names, recorded
from fixtures.judging import collected

if TYPE_CHECKING:
    from pathlib import Path

NO_CLOSURE = Missing(Status.UNASKED, (), "no delegate was named", Remedy.DELEGATE)
NPU = "pci:0000:00:05.0"
EVENTS = "/sys/kernel/tracing/events"


def test_the_recorded_device_traces_its_driver_and_what_it_uses() -> None:
    found = collected(recorded()).tracing
    systems = found.systems.open()
    assert {"edu_accel", "dma_fence", "drm", "iommu"} <= set(systems)
    assert systems["edu_accel"] == ("edu_copy",)
    assert found.own[NPU].open() == DriverEvents(("edu_accel",), "edu_accel")


def test_systems_of_nobody_here_are_not_listed() -> None:
    source = Recorder(Replay(recorded()))
    read_tracing(Device(source), collected(recorded()).accelerators, NO_CLOSURE)
    listed = {question.path for question in source.record("t", "").answers if question.kind == "list"}
    assert f"{EVENTS}/block" not in listed
    assert f"{EVENTS}/edu_accel" in listed


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (denied(recorded(), EVENTS), Status.DENIED),
        (absent(recorded(), EVENTS), Status.UNASKED),  # the older place was not recorded
        (absent(names(absent(recorded(), EVENTS), "/sys/kernel/debug/tracing/events"), "/sys/kernel/debug/tracing/events"), Status.ABSENT),
    ],
)
def test_tracefs_that_is_not_there_or_not_readable_is_missing(record, status: Status) -> None:
    assert collected(record).tracing.systems.status is status


def test_without_accelerators_only_generic_systems_are_read() -> None:
    for accelerators in (Ok(Listing(())), Missing(Status.DENIED)):
        found = read_tracing(Device(Replay(recorded())), accelerators, NO_CLOSURE)
        assert found.own == {}
        assert "edu_accel" not in found.systems.open()


def closure(*paths: str) -> Ok[Closure]:
    objects = tuple(ElfObject(path, "", 1, 1, 1, (1, number), 62, 64, "", "root", False, True) for number, path in enumerate(paths))
    return Ok(Closure(paths, objects, (), (), ()))


def test_without_a_user_space_driver_perfetto_is_not_looked_for() -> None:
    found = collected(recorded()).tracing.perfetto
    assert isinstance(found, Missing)
    assert (found.status, found.remedy) == (Status.UNASKED, Remedy.DELEGATE)


def test_perfetto_is_found_in_the_files_of_the_user_space_driver(tmp_path: Path) -> None:
    border = (1 << 20) - 5  # the name lies on the border of two reads
    (tmp_path / "libnpu.so").write_bytes(b"\0" * border + PERFETTO.encode() + b"\0" * 10)
    (tmp_path / "libother.so").write_bytes(b"PERFETTO_PRODUCER" * 3)
    device = Device(Tree(str(tmp_path)))
    assert read_tracing(device, Ok(Listing(())), closure("/libnpu.so", "/libother.so")).perfetto.open() == ("/libnpu.so",)
    assert read_tracing(device, Ok(Listing(())), closure("/libother.so")).perfetto.open() == ()


def test_a_file_that_could_not_be_searched_may_hold_perfetto(tmp_path: Path) -> None:
    (tmp_path / "libother.so").write_bytes(b"x")
    found = read_tracing(Device(Tree(str(tmp_path))), Ok(Listing(())), closure("/libother.so", "/gone.so")).perfetto
    assert isinstance(found, Missing)


def emitted(counts: Any):
    content = {"schema": PROBE_SCHEMA, "probe": "tracing", "counts": counts}
    record = document(recorded(), base.probe("tracing"), content)
    return read_tracing(Device(Replay(record)), Ok(Listing(())), NO_CLOSURE).emitted


def test_counts_are_read_as_they_are() -> None:
    assert emitted({"b:x": 2, "a:y": 0}).open() == {"a:y": 0, "b:x": 2}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_counts_of_another_shape_are_missing(counts: Any) -> None:
    found = emitted(counts)
    good = isinstance(counts, dict) and all(type(each) is int and each >= 0 for each in counts.values())
    assert found.status is (Status.OK if good else Status.FAILED)


def test_too_many_counts_are_missing() -> None:
    assert emitted({f"a:{at}": 1 for at in range(COUNTS + 1)}).status is Status.FAILED
    assert emitted({"x" * 500: 1}).status is Status.FAILED

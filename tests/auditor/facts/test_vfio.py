"""The document of the VFIO probe; checks/test_functional_1.py and test_security_3.py have what is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.reading import EXCERPT, Device
from auditor.facts.types import DmaTrial, Listing, Missing, Ok, Plan, Vfio, VfioGroup
from auditor.facts.vfio import LIMIT, read_vfio
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Replay
from fixtures.devices import FAULT, answered, document, vfio_probed
from fixtures.judging import collected

NPU = "pci:0000:00:0b.0"
ACCELERATORS = collected(vfio_probed()).accelerators
DMA = Plan(probe_dma=True)
ASKED = base.probe("vfio", "dma")
WHOLE = json.loads(vfio_probed().answers[ASKED].data)


def read(content: Any, plan: Plan = DMA, accelerators: Any = ACCELERATORS):
    record = document(vfio_probed(), ASKED if plan.probe_dma else base.probe("vfio"), content)
    return read_vfio(Device(Replay(record)), plan, accelerators)


def changed(where: str, **changes: Any):
    return read({**WHOLE, where: [{**WHOLE[where][0], **changes}]})


def test_a_document_is_read_as_it_is() -> None:
    found = read(WHOLE)
    trial = DmaTrial(NPU, "", True, False, "00" * 8, (FAULT,), "")
    assert found.open() == Vfio((VfioGroup(NPU, "/dev/vfio/7", "", True, False),), (trial,))
    assert [each.path for each in found.evidence] == ["probe:vfio"]


def test_trials_are_asked_for_by_the_plan_alone() -> None:
    assert read({**WHOLE, "dma": None}, Plan()).open().trials == ()
    assert read({**WHOLE, "dma": None}).status is Status.FAILED
    assert read({key: WHOLE[key] for key in WHOLE if key != "dma"}).status is Status.FAILED


def test_a_device_of_a_device_tree_is_known_by_its_name_in_sysfs() -> None:
    (npu,) = ACCELERATORS.open().items
    soc = replace(npu, subject="of:/soc/npu@fd00", sysfs="/sys/devices/platform/fd00.npu")
    group = {**WHOLE["groups"][0], "devices": [{"device": "platform:fd00.npu", "driver": "vfio-platform"}]}
    found = read({**WHOLE, "groups": [group]}, accelerators=Ok(Listing((soc,))))
    assert [each.accelerator for each in found.open().groups] == ["of:/soc/npu@fd00"]


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("groups", {"node": None}), ("groups", {"error": "no"}), ("groups", {"viable": 1}), ("groups", {"in_use": "N"}),
        ("groups", {"devices": None}), ("groups", {"devices": [{}]}), ("groups", {"devices": [{"device": "x"}] * (LIMIT + 1)}),
        ("groups", {"devices": [{"device": NPU}] * 2}),
        ("dma", {"accelerator": 3}), ("dma", {"error": None}), ("dma", {"mapped": "true"}), ("dma", {"unmapped": 0}),
        ("dma", {"unmapped_read": "0"}), ("dma", {"unmapped_read": "zz"}), ("dma", {"unmapped_read": 7}), ("dma", {"faults": "x"}),
        ("dma", {"faults": [""] * (LIMIT + 1)}), ("dma", {"log_error": 3}),
    ],
)  # fmt: skip
def test_an_entry_of_another_shape_spoils_the_document(where: str, changes: dict[str, Any]) -> None:
    assert changed(where, **changes).status is Status.FAILED


def test_an_accelerator_that_is_there_twice_spoils_the_document() -> None:
    assert read({**WHOLE, "groups": WHOLE["groups"] * 2}).status is Status.FAILED
    assert read({**WHOLE, "dma": WHOLE["dma"] * 2}).status is Status.FAILED


@pytest.mark.parametrize("changes", [{"schema": "crosml-audit/probe/2"}, {"probe": "dma-buf"}, {"groups": None}, {"groups": {}}])
def test_another_document_is_missing(changes: dict[str, Any]) -> None:
    assert read({**WHOLE, **changes}).status is Status.FAILED


def test_a_line_of_the_log_is_cut_and_cannot_hide_anything() -> None:
    (line,) = changed("dma", faults=["fault \x1b[2J\n" + "x" * 10_000]).open().trials[0].faults
    assert len(line) == EXCERPT
    assert line.isprintable()


def test_nothing_is_known_where_nothing_was_tried() -> None:
    found = read_vfio(Device(Replay(vfio_probed())), Plan(), ACCELERATORS)  # the record holds the other question
    assert isinstance(found, Missing)
    assert (found.status, found.remedy) == (Status.UNASKED, Remedy.PROBES)
    missing = Missing(Status.DENIED)
    assert read(WHOLE, accelerators=missing) is missing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({*WHOLE, *WHOLE["dma"][0]})), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["groups", "dma"]))
def test_any_document_is_read_or_missing(content: Any, where: str) -> None:
    assert isinstance(read({**WHOLE, where: content}), (Ok, Missing))


@given(st.binary(max_size=60) | st.sampled_from([b"[" * 5000, b"[]", b'{"schema": []}', b"null", b"1e999", b'"\\ud800"']))
def test_no_document_has_another_end(data: bytes) -> None:
    record = answered(vfio_probed(), {ASKED: Reply(Status.OK, data)})
    assert read_vfio(Device(Replay(record)), DMA, ACCELERATORS).status is Status.FAILED

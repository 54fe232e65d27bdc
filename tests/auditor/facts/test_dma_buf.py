"""The document of the dma-buf probe; checks/test_functional_2.py has what is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.dma_buf import LIMIT, read_dma_buf
from auditor.facts.probing import PROBE_SCHEMA
from auditor.facts.reading import Device
from auditor.facts.types import BufferTrial, DmaBuf, Missing
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Replay
from fixtures.devices import answered, recorded, unprobed
from fixtures.judging import collected

NPU, GPU = "pci:0000:00:05.0", "pci:0000:00:06.0"
ACCELERATORS = collected(recorded()).accelerators
TRIAL = {"exporter": "vgem", "importer": NPU, "error": "", "proof": "attachment"}


def entry(**changes: Any) -> dict[str, Any]:
    return {"accelerator": NPU, "driver": "edu", "claimed": 3, "exports": [], "imports": [TRIAL], "note": "", **changes}


def read(*entries: Any, known: Any = ACCELERATORS, **changes: Any):
    content = {"schema": PROBE_SCHEMA, "probe": "dma-buf", "accelerators": [*entries], **changes}
    record = answered(recorded(), {base.probe("dma-buf"): Reply(Status.OK, json.dumps(content).encode())})
    return read_dma_buf(Device(Replay(record)), known)


def test_a_document_is_read_as_it_is() -> None:
    found = read(entry(claimed=None, note="n"), entry(accelerator="pci:ffff:00:00.0"))
    assert found.open() == (DmaBuf(NPU, "edu", None, (), (BufferTrial("vgem", NPU, "", "attachment"),), "n"),)
    assert [item.path for item in found.evidence] == ["probe:dma-buf"]


@pytest.mark.parametrize(
    "changes",
    [
        {"accelerator": None}, {"driver": 7}, {"claimed": "3"}, {"claimed": True}, {"claimed": 4}, {"claimed": -1}, {"exports": {}},
        {"imports": None}, {"imports": ["x"]}, {"note": "x" * 401}, {"imports": [{**TRIAL, "error": "no thanks", "proof": ""}]},
        {"imports": [{**TRIAL, "proof": "trust me"}]}, {"imports": [{**TRIAL, "error": "ENODEV"}]},
        {"exports": [{**TRIAL, "importer": ""}]},
        {"imports": [{"exporter": "vgem"}]}, {"imports": [TRIAL] * (LIMIT + 1)},
    ],
)  # fmt: skip
def test_an_entry_of_another_shape_spoils_the_document(changes: dict[str, Any]) -> None:
    assert read(entry(**changes)).status is Status.FAILED


def test_an_accelerator_that_is_there_twice_spoils_the_document() -> None:
    assert read(entry(), entry()).status is Status.FAILED


@pytest.mark.parametrize("changes", [{"schema": "crosml-audit/probe/2"}, {"probe": "vfio"}, {"accelerators": None}])
def test_another_document_is_missing(changes: dict[str, Any]) -> None:
    assert read(**changes).status is Status.FAILED


def test_nothing_is_known_where_nothing_was_tried() -> None:
    found = read_dma_buf(Device(Replay(unprobed())), ACCELERATORS)
    assert isinstance(found, Missing)
    assert (found.status, found.remedy) == (Status.UNASKED, Remedy.PROBES)
    missing = Missing(Status.DENIED)
    assert read(entry(), known=missing) is missing


@given(st.binary(max_size=60) | st.sampled_from([b"[" * 5000, b"[]", b'{"schema": []}', b"null", b"1e999", b'"\\ud800"']))
def test_no_document_has_another_end(data: bytes) -> None:
    record = answered(recorded(), {base.probe("dma-buf"): Reply(Status.OK, data)})
    assert read_dma_buf(Device(Replay(record)), ACCELERATORS).status is Status.FAILED

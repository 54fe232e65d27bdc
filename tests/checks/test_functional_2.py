"""functional-2: only what was done passes, only what a driver cannot do fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from auditor.facts.probing import PROBE_SCHEMA
from auditor.model import Outcome, Remedy
from auditor.sources import base
from checks import functional_2
from fixtures.devices import DENIED, answered, document, recorded, unprobed
from fixtures.judging import judged

if TYPE_CHECKING:
    from auditor.sources.recording import Record

NPU = "pci:0000:00:05.0"


def trial(exporter: str, importer: str, error: str = "", proof: str = "") -> dict[str, str]:
    return {"exporter": exporter, "importer": importer, "error": error, "proof": proof}


def probed(*, exports: list[Any] = (), imports: list[Any] = (), claimed: int | None = 3, note: str = "", subject: str = NPU) -> Record:
    entry = {"accelerator": subject, "driver": "edu", "claimed": claimed, "exports": [*exports], "imports": [*imports], "note": note}
    return document(recorded(), base.probe("dma-buf"), {"schema": PROBE_SCHEMA, "probe": "dma-buf", "accelerators": [entry]})


def found(record: Record, check):
    return judged(record, check)[NPU]


BOTH = pytest.mark.parametrize("check", [functional_2.export, functional_2.import_])


def test_an_export_with_a_proof_passes_whatever_others_say() -> None:
    trials = [trial(NPU, ""), trial(NPU, "virtio-gpu", "ENODEV"), trial(NPU, "vgem", proof="same-inode")]
    finding = found(probed(exports=trials, claimed=None), functional_2.export)
    assert (finding.outcome, finding.observed) == (Outcome.PASS, f"{NPU} to vgem: same-inode")


def test_an_import_with_a_proof_passes_whatever_others_say() -> None:
    trials = [trial("udmabuf", NPU, "EINVAL"), trial("dma_heap:system", NPU, proof="device-copy")]
    finding = found(probed(imports=trials), functional_2.import_)
    assert (finding.outcome, finding.observed) == (Outcome.PASS, f"dma_heap:system to {NPU}: device-copy")


def test_claimed_and_refused_fails_with_its_errno() -> None:
    finding = found(probed(imports=[trial("dma_heap:system", NPU, "ENODEV"), trial("udmabuf", NPU, "EINVAL")]), functional_2.import_)
    assert finding.outcome is Outcome.FAIL
    assert finding.observed == f"claimed, and refused: dma_heap:system to {NPU}: ENODEV, udmabuf to {NPU}: EINVAL"
    finding = found(probed(exports=[trial(NPU, "", "EOPNOTSUPP")], claimed=None), functional_2.export)
    assert (finding.outcome, finding.observed) == (Outcome.FAIL, f"refused: {NPU} to a descriptor: EOPNOTSUPP")
    finding = found(probed(exports=[trial(NPU, "", "EOPNOTSUPP")], claimed=1), functional_2.export)
    assert (finding.outcome, finding.observed) == (Outcome.FAIL, f"not claimed, and refused: {NPU} to a descriptor: EOPNOTSUPP")


@pytest.mark.parametrize(
    "record",
    [
        probed(imports=[trial(NPU, NPU, proof="same-inode")]),  # its own buffer comes back to it
        probed(imports=[trial("vgem", NPU)]),  # agreed, and nothing was seen
        probed(imports=[trial("vgem", NPU), trial("udmabuf", NPU, "ENODEV")]),
        probed(imports=[trial("vgem", NPU, "EACCES")]),
        probed(imports=[trial("vgem", NPU, "ENOMEM"), trial("udmabuf", NPU, "ENODEV")]),
        probed(note="allocation not known"),
        probed(subject="pci:0000:99:00.0"),
    ],
)
def test_what_proves_nothing_is_unknown_for_an_import(record: Record) -> None:
    assert found(record, functional_2.import_).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(NPU, "")],
        [trial(NPU, "virtio-gpu", "ENODEV")],  # the importer refuses, not the exporter
        [trial(NPU, ""), trial(NPU, "vgem", "ENODEV")],
        [trial(NPU, "", "EPERM")],
        [trial(NPU, "", "ENODEV"), trial(NPU, "")],
    ],
)
def test_what_proves_nothing_is_unknown_for_an_export(trials: list[Any]) -> None:
    assert found(probed(exports=trials), functional_2.export).outcome is Outcome.UNKNOWN


@BOTH
def test_a_right_that_is_missing_is_named(check) -> None:
    record = probed(exports=[trial(NPU, "", "EACCES")], imports=[trial("vgem", NPU, "EPERM")])
    assert found(record, check).remedy is Remedy.ROOT


@BOTH
def test_without_a_probe_the_claim_proves_nothing(check) -> None:
    assert (found(unprobed(), check).outcome, found(unprobed(), check).remedy) == (Outcome.UNKNOWN, Remedy.PROBES)
    assert found(answered(recorded(), {base.probe("dma-buf"): DENIED}), check).outcome is Outcome.UNKNOWN


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"schema": PROBE_SCHEMA, "probe": "tracing", "accelerators": []},
        {"schema": PROBE_SCHEMA, "probe": "dma-buf", "accelerators": {}},
        {"schema": PROBE_SCHEMA, "probe": "dma-buf", "accelerators": [{"accelerator": NPU}]},
    ],
)
def test_a_document_of_another_shape_is_unknown(check, content: Any) -> None:
    finding = found(document(recorded(), base.probe("dma-buf"), content), check)
    assert (finding.outcome, finding.remedy) == (Outcome.UNKNOWN, Remedy.EVIDENCE)

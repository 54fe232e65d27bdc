from __future__ import annotations

import errno

import pytest

from auditor.facts import tracing as facts
from auditor.families import FAMILIES
from auditor.probes import tracing


@pytest.fixture
def instance(tmp_path):
    """A trace instance with the events of three systems, two of which have one of the same name."""
    for event in ("edu_accel/edu_copy", "iommu/map", "iommu/unmap", "vpu/map", "sched/sched_switch"):
        (tmp_path / "events" / event).mkdir(parents=True)
        (tmp_path / "events" / event / "enable").write_text("0")
        (tmp_path / "events" / event.split("/")[0] / "enable").write_text("0")
    return tmp_path


def test_the_events_of_the_systems_that_there_are_are_enabled_and_no_others(instance):
    events = tracing._enable(str(instance), {"edu_accel", "iommu", "vpu", "amdxdna"})
    assert events == ("edu_accel:edu_copy", "iommu:map", "iommu:unmap", "vpu:map")
    enabled = {each.name: (each / "enable").read_text() for each in (instance / "events").iterdir()}
    assert enabled == {"edu_accel": "1", "iommu": "1", "vpu": "1", "sched": "0"}


def test_what_was_recorded_is_counted_with_a_sample_of_each(instance):
    (instance / "trace").write_bytes(
        b"# tracer: nop\n#\nedu_copy: 0000:00:05.0 handle=1\nedu_copy: 0000:00:05.0 handle=2\nunmap: IOMMU: iova=0\xff\n"
        b"map: of which system?\nother: edu_copy: x\n\n" + b"unmap: " + b"x" * 20_000 + b"\nedu_copy"
    )
    counts, samples = tracing._counted(str(instance), ("edu_accel:edu_copy", "iommu:map", "iommu:unmap", "vpu:map"))
    assert counts == {"edu_accel:edu_copy": 3, "iommu:unmap": 2}
    assert samples == {"edu_accel:edu_copy": "edu_copy: 0000:00:05.0 handle=1", "iommu:unmap": "unmap: IOMMU: iova=0\\xff"}


def test_events_are_only_expected_of_a_driver_whose_device_moved_data():
    def trial(proof="", error=""):
        return {"exporter": "a", "importer": "b", "error": error, "proof": proof}

    results = [
        {"accelerator": "pci:a", "driver": "edu_accel", "exports": [], "imports": [trial("device-copy")]},
        {"accelerator": "pci:b", "driver": "vpu", "exports": [trial()], "imports": []},
        {"accelerator": "pci:c", "driver": "xe", "exports": [], "imports": [trial(error="ENODEV")]},
    ]
    work = [{"driver": each["driver"], "work": tracing._work(each)} for each in results]
    assert [each["work"] for each in work] == ["device-copy", "exchange", "none"]
    assert tracing._expected(("edu_accel:edu_copy", "vpu:job", "xe:job", "iommu:map"), work) == ["edu_accel:edu_copy"]


def test_an_earlier_probes_instance_is_made_anew(tmp_path):
    (tmp_path / "crosml-audit").mkdir()
    tracing.make_instance(str(tmp_path / "crosml-audit"))
    assert (tmp_path / "crosml-audit").is_dir()


def test_the_instance_is_removed_and_others_stay(tmp_path, monkeypatch):
    (tmp_path / "instances/crosml-audit").mkdir(parents=True)
    (tmp_path / "instances/other").mkdir()
    monkeypatch.setattr(tracing, "FOLDERS", (str(tmp_path / "nowhere"), str(tmp_path)))
    tracing.restore()
    tracing.restore()
    assert [each.name for each in (tmp_path / "instances").iterdir()] == ["other"]


def test_without_an_accelerator_nothing_is_traced(monkeypatch):
    monkeypatch.setattr(tracing, "find", lambda: ())
    monkeypatch.setattr(tracing, "make_instance", lambda _place: pytest.fail("made an instance"))
    with pytest.raises(OSError) as caught:
        tracing.run()
    assert caught.value.errno == errno.ENODEV


def test_the_systems_that_the_facts_look_for_are_enabled():
    assert {*facts._GENERIC, *FAMILIES.trace_systems()} == tracing.SYSTEMS

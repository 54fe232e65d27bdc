"""The ML service's files and processes; checks/test_service.py has what is made of them."""

from __future__ import annotations

import pytest

from auditor.facts import ml_service
from auditor.facts.reading import Device
from auditor.facts.types import Missing
from auditor.model import Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Recorder, Replay
from fixtures import chromebook as cros
from fixtures.chromebook import MODEL, SERVICE, Process, chromebook, found, running
from fixtures.devices import absent, answered, denied, names, recorded
from fixtures.judging import collected


def test_the_service_is_read_with_its_models_policies_and_switches() -> None:
    service = collected(chromebook()).ml_service
    executable = service.executable.open()
    assert (executable.path, executable.size, executable.on_root.open()) == (SERVICE, 1_500_000, True)
    (model,) = service.models.open().items
    assert (model.path, model.sha256.open(), model.on_root.open()) == (MODEL, "0" * 64, True)
    policies = [each.path for each in service.policies.open().items]
    assert policies == [f"/usr/share/policy/ml_service-{name}.policy" for name in ("Model", "seccomp")]
    assert service.switches.open() == ("--mojo-fd", "--task")


def test_of_a_device_without_it_nothing_more_is_asked() -> None:
    source = Recorder(Replay(recorded()))
    service = ml_service.read_ml_service(Device(source))
    assert {fact.status for fact in (service.executable, service.models, service.policies, service.switches, service.restraints)} == {
        Status.ABSENT
    }
    assert {question.path for question in source.record("t", "").answers} == {"/", SERVICE, "/usr/bin"}


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (denied(recorded(), SERVICE), Status.DENIED),
        (denied(recorded(), "/usr/bin"), Status.FAILED),
        (absent(recorded(), "/usr/bin"), Status.FAILED),
        (names(recorded(), "/usr/bin", "ml_service"), Status.FAILED),
    ],
)
def test_a_service_that_may_be_there_is_not_absent(record, status: Status) -> None:
    assert collected(record).ml_service.executable.status is status


def test_a_model_that_is_elsewhere_is_not_on_the_root() -> None:
    (model,) = collected(found(chromebook(), MODEL, dev=77)).ml_service.models.open().items
    assert model.on_root.open() is False
    assert len(collected(denied(chromebook(), MODEL)).ml_service.models.open().unread) == 1


def test_too_many_models_are_not_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(ml_service, "FILES", 0)
    models = collected(chromebook()).ml_service.models.open()
    assert (models.items, [each.note for each in models.unread]) == ((), ["more than 0 files"])


def test_switches_are_those_of_the_service_alone_and_without_their_values() -> None:
    record = running(chromebook(), Process(9100, "/usr/bin/other", ("--disable-seccomp-for-test",)))
    record = running(record, Process(9101, SERVICE, ("--\x1b[2J=1", "-x", "plain")))
    assert collected(record).ml_service.switches.open() == ("--\\x1b[2J", "--mojo-fd", "--task")


def test_a_process_that_ended_has_no_switches_and_one_out_of_sight_may_have() -> None:
    assert collected(absent(chromebook(), "/proc/9000/cmdline")).ml_service.switches.open() == ()
    gone = {base.read("/proc/9000/cmdline", 0, ml_service.COMMAND_LINE): Reply(Status.FAILED, errno=3)}
    ended = answered(chromebook(), {**gone, base.stat("/proc/9000"): Reply(Status.ABSENT, errno=2)})
    assert collected(ended).ml_service.switches.open() == ()
    for record in (
        denied(chromebook(), "/proc/9000/cmdline"),
        answered(chromebook(), gone),
        cros.file(chromebook(), "/proc/9000/cmdline", "x" * ml_service.COMMAND_LINE, ml_service.COMMAND_LINE),
        denied(chromebook(), "/proc/2/status"),
    ):
        assert isinstance(collected(record).ml_service.switches, Missing)

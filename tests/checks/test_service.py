"""service-…: not applicable without the service, and otherwise what its files and processes say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from auditor.facts.types import Missing, Ok, VerifiedBoot
from auditor.model import Outcome, Remedy, Status
from checks import service
from fixtures import chromebook as cros
from fixtures.chromebook import CONFINED, FREE, MODEL, SERVICE, Process, chromebook, found, jobs, running
from fixtures.devices import absent, denied, names, recorded
from fixtures.judging import collected, judged

if TYPE_CHECKING:
    from auditor.facts.types import Facts
    from auditor.sources.recording import Record

ALL = (
    *(service.definition, service.switches, service.running, service.models, service.size),
    *(service.operators, service.predictions, service.errors, service.metrics),
)
ANYWHERE = pytest.mark.parametrize("check", ALL, ids=lambda check: check.id)


def outcome(device: Record | Facts, check) -> Outcome:
    return judged(device, check)["device"].outcome


@ANYWHERE
def test_a_readable_device_without_the_service_is_not_applicable(check) -> None:
    assert outcome(recorded(), check) is Outcome.NOT_APPLICABLE


@ANYWHERE
def test_whether_there_is_a_service_must_be_seen(check) -> None:
    for record in (
        denied(recorded(), SERVICE),
        denied(recorded(), "/usr/bin"),
        absent(recorded(), "/usr/bin"),
        names(recorded(), "/usr/bin", "ml_service"),
    ):
        assert outcome(record, check) is Outcome.UNKNOWN


@pytest.mark.parametrize("check", [service.operators, service.predictions, service.errors, service.metrics], ids=lambda check: check.id)
def test_what_shows_only_in_the_service_itself_is_unknown(check) -> None:
    answer = judged(chromebook(), check)["device"]
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, None)
    assert answer.reason == check.sentences[Outcome.UNKNOWN]


# --- the sandbox -----------------------------------------------------------------------------------------------------------------------


def started(job: str) -> Record:
    return jobs(chromebook(), **{"ml-service": job})


def test_a_service_in_nested_minijails_passes() -> None:
    answer = judged(chromebook(), service.definition)["device"]
    assert (answer.outcome, answer.observed) == (Outcome.PASS, "1 minijails of it, 2 policies of its workers")


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (started(cros.SERVICE_JOB.replace("-n ", "")), "no -n"),
        (started(cros.SERVICE_JOB.replace("--profile=minimalistic-mountns", "")), "no root of its own"),
        (started(cros.SERVICE_JOB.replace("-S /usr/share/policy/ml_service-seccomp.policy", "")), "no seccomp policy"),
        (cros.file(chromebook(), "/usr/share/policy/ml_service-seccomp.policy", "ioctl: 1\n"), "every ioctl"),
        (cros.file(chromebook(), "/usr/share/policy/ml_service-Model.policy", "ioctl: 1\n"), "every ioctl"),
    ],
)
def test_an_open_sandbox_fails(record: Record, fault: str) -> None:
    answer = judged(record, service.definition)["device"]
    assert (answer.outcome, fault in answer.observed) == (Outcome.FAIL, True)


@pytest.mark.parametrize(
    "record",
    [
        started("exec minijail0 ${OPTIONS} /usr/bin/ml_service\n"),
        started("exec /usr/bin/ml_service\n"),
        started("exec minijail0 -n /usr/bin/other\n"),
        denied(chromebook(), "/etc/init/npud.conf"),
        denied(chromebook(), "/usr/share/policy"),
        denied(chromebook(), "/usr/share/policy/ml_service-Model.policy"),
        denied(chromebook(), "/usr/share/policy/ml_service-seccomp.policy"),
    ],
)
def test_a_sandbox_that_cannot_be_read_is_unknown(record: Record) -> None:
    assert outcome(record, service.definition) is Outcome.UNKNOWN


def test_a_test_switch_of_any_worker_fails() -> None:
    assert outcome(chromebook(), service.switches) is Outcome.PASS
    worker = running(chromebook(), Process(9100, SERVICE, ("--task=mojo_service", "--disable-seccomp-for-test")))
    answer = judged(worker, service.switches)["device"]
    assert (answer.outcome, answer.observed) == (Outcome.FAIL, "--disable-seccomp-for-test")
    assert not any("9100" in each.path + each.excerpt for each in answer.evidence)


def test_switches_that_cannot_be_read_are_unknown() -> None:
    for record in (denied(chromebook(), "/proc/9000/cmdline"), names(chromebook(), "/proc"), denied(chromebook(), "/proc/2/status")):
        assert outcome(record, service.switches) is Outcome.UNKNOWN
    assert judged(names(chromebook(), "/proc"), service.switches)["device"].remedy is Remedy.LIVE


def test_a_service_that_does_not_run_has_no_switches() -> None:
    assert outcome(absent(chromebook(), "/proc/9000/cmdline"), service.switches) is Outcome.NOT_APPLICABLE


def test_a_service_that_runs_confined_passes_and_one_that_does_not_fails() -> None:
    answer = judged(chromebook(), service.running)["device"]
    assert (answer.outcome, answer.observed) == (Outcome.PASS, "user 20131, no new privileges, seccomp filter, no capabilities")
    for status in (
        FREE,
        CONFINED.replace("Seccomp:\t2", "Seccomp:\t0"),
        CONFINED.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        CONFINED.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
    ):
        worker = running(chromebook(), Process(9100, SERVICE, ("--task=mojo_service",), (), (CONFINED, status)))
        assert outcome(worker, service.running) is Outcome.FAIL


def test_a_service_whose_confinement_cannot_be_read_is_unknown() -> None:
    for record in (
        denied(chromebook(), "/proc/9000/task/9000/status"),
        denied(chromebook(), "/proc/9000/task"),
        denied(chromebook(), "/proc/9000/cmdline"),
        denied(chromebook(), "/proc/2/status"),
    ):
        assert outcome(record, service.running) is Outcome.UNKNOWN
    assert outcome(absent(chromebook(), "/proc/9000/cmdline"), service.running) is Outcome.NOT_APPLICABLE
    assert outcome(absent(chromebook(), "/proc/9000/task"), service.running) is Outcome.NOT_APPLICABLE


# --- models and size -------------------------------------------------------------------------------------------------------------------


def booted(record: Record, *, verity: bool = True, read_only: bool = True, mode: str = "normal") -> Facts:
    facts = collected(record)
    boot = VerifiedBoot(Ok(verity), Ok(read_only), Ok(mode))
    return replace(facts, loading=replace(facts.loading, verified_boot=boot))


def test_models_on_a_verified_root_pass() -> None:
    assert outcome(booted(chromebook()), service.models) is Outcome.PASS


def test_models_elsewhere_or_on_a_root_that_is_not_verified_fail() -> None:
    answer = judged(booted(found(chromebook(), MODEL, dev=77)), service.models)["device"]
    assert (answer.outcome, answer.observed) == (Outcome.FAIL, f"not on the root: {MODEL}")
    for boot in ({"verity": False}, {"read_only": False}, {"mode": "developer"}):
        assert outcome(booted(chromebook(), **boot), service.models) is Outcome.FAIL


def test_models_whose_root_cannot_be_judged_are_unknown() -> None:
    assert outcome(booted(chromebook(), mode=""), service.models) is Outcome.UNKNOWN
    facts = booted(chromebook())
    for field in ("verity", "root_read_only", "mode"):
        boot = replace(facts.loading.verified_boot, **{field: Missing(Status.DENIED)})
        assert outcome(replace(facts, loading=replace(facts.loading, verified_boot=boot)), service.models) is Outcome.UNKNOWN
    for record in (denied(chromebook(), MODEL), denied(chromebook(), MODEL.rpartition("/")[0]), denied(chromebook(), "/")):
        assert outcome(booted(record), service.models) is Outcome.UNKNOWN


def test_a_service_without_models_on_its_root_is_not_applicable() -> None:
    assert outcome(booted(names(chromebook(), MODEL.rpartition("/")[0], "README")), service.models) is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(("size", "expected"), [(1_500_000, Outcome.PASS), (2_999_999, Outcome.PASS), (3_000_000, Outcome.FAIL)])
def test_the_size_is_compared_with_the_estimate(size: int, expected: Outcome) -> None:
    assert outcome(found(chromebook(), SERVICE, size=size), service.size) is expected

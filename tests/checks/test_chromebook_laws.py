"""Rule 6 over the answers that a Chromebook gives and the recorded device does not: jobs, policies, processes, the ML service."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from auditor.facts.ml_service import read_ml_service
from auditor.facts.reading import Device
from auditor.facts.sandbox import read_sandbox
from auditor.model import Outcome
from auditor.sources.recording import Record, Replay
from checks import security_1, service
from fixtures import chromebook as cros
from fixtures.chromebook import DAEMON, FREE, NODE, Process, chromebook, jobs, running
from fixtures.devices import DENIED, UNASKED, answered, recorded
from fixtures.judging import collected, judged

if TYPE_CHECKING:
    from auditor.facts.types import Facts

CHECKS = (
    security_1.holders, security_1.definition, security_1.reaching_definitions, security_1.node_mode,
    service.definition, service.switches, service.models, service.size,
)  # fmt: skip


def opened() -> Record:
    """The daemon runs twice, once free; one of its jobs shows all of /dev, and a policy allows every ioctl; a worker has a test switch."""
    record = running(chromebook(), Process(8200, DAEMON, (), (NODE, "/dev/dri/renderD128"), (FREE,)))
    record = running(record, Process(9100, cros.SERVICE, ("--disable-seccomp-for-test",)))
    other = "exec minijail0 -n -b /dev -P /mnt/empty -S /usr/share/policy/other.policy /usr/sbin/npud\n"
    record = jobs(record, npud=cros.JOB, debug=other, **{"ml-service": cros.SERVICE_JOB})
    record = cros.file(record, "/usr/share/policy/other.policy", "ioctl: arg1 == 5\n")
    record = cros.file(record, "/usr/share/policy/ml_service-Model.policy", "ioctl: 1\n")
    record = cros.found(record, cros.MODEL, dev=77)
    return cros.file(record, "/usr/share/policy/common.policy", "ioctl: 1\n")


def outcomes(facts: Facts) -> dict[tuple[str, str], Outcome]:
    return {(check.id, subject): each.outcome for check in CHECKS for subject, each in judged(facts, check).items()}


@pytest.mark.parametrize("make", [chromebook, opened])
def test_degrading_an_answer_never_improves_an_outcome(make) -> None:
    record = make()
    facts = collected(record)
    before = outcomes(facts)
    assert {Outcome.PASS, Outcome.NOT_APPLICABLE} & set(before.values())
    wrong: list[str] = []
    for question in record.answers.keys() - recorded().answers.keys():
        for reply in (DENIED, UNASKED):
            device = Device(Replay(answered(record, {question: reply})))
            less = replace(facts, sandbox=read_sandbox(device, facts.accelerators), ml_service=read_ml_service(device))
            for key, outcome in outcomes(less).items():
                if outcome not in {before.get(key, Outcome.UNKNOWN), Outcome.UNKNOWN}:
                    wrong.append(f"{question.kind} {question.path} {reply.status.value}: {key} is {outcome.value}")
    assert not wrong, "\n".join(sorted(wrong)[:20])


def test_the_open_chromebook_fails_where_the_other_passes() -> None:
    good, bad = outcomes(collected(chromebook())), outcomes(collected(opened()))
    worse = {key for key in good if good[key] is Outcome.PASS and bad[key] is Outcome.FAIL}
    assert worse >= {
        (security_1.holders.id, f"exe:{DAEMON}"),
        (security_1.definition.id, f"exe:{DAEMON}"),
        (service.definition.id, "device"),
        (service.switches.id, "device"),
    }

"""The laws that no check may bend, over every answer of every recorded device and every check (design: rules 1 and 6)."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest

from auditor import registry, requirements
from auditor.engine import Context, Selection, judge
from auditor.model import DeviceSummary, Outcome, Report, Tool, ZooUsed, printable
from auditor.sources.recording import Record
from fixtures import devices
from fixtures.chromebook import chromebook
from fixtures.judging import collected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import Finding

DEVICES = {**devices.DEVICES, "chromebook": chromebook}
CHECKS = registry.checks(plugins=False)
SET = requirements.load()
CONTEXT = Context(Tool("t", "0"), SET.name, DeviceSummary("snapshot", "d", "", ""), ZooUsed(SET.zoo.version))
TODAY = datetime.date(2026, 11, 22)


def report(record: Record) -> Report:
    return judge(collected(record), CHECKS, SET.requirements, (), TODAY, Selection(), CONTEXT)


def findings(of: Report) -> dict[str, Finding]:
    return {finding.id: finding for requirement in of.requirements for finding in requirement.findings}


def violations(record: Record) -> Iterator[str]:
    before = report(record)
    known = findings(before)
    outcomes = {requirement.id: requirement.outcome for requirement in before.requirements}
    for label, degraded in devices.every_degradation(record):
        after = report(degraded)
        for requirement in after.requirements:
            if requirement.outcome not in {outcomes[requirement.id], Outcome.UNKNOWN}:
                yield f"{label}: {requirement.id} was {outcomes[requirement.id].value} and is {requirement.outcome.value}"
        now = findings(after)
        for each in now.values():
            was = known[each.id].outcome if each.id in known else Outcome.UNKNOWN
            if each.outcome not in {was, Outcome.UNKNOWN}:
                yield f"{label}: {each.id} was {was.value} and is {each.outcome.value}: {each.observed}"
        path = label.split(" ")[1]
        for each in known.values():
            needs = {item.path for item in each.evidence if item.necessary}
            if each.outcome is Outcome.PASS and path in needs and each.id in now and now[each.id].outcome is Outcome.PASS:
                same = [item for item in each.evidence if item.path == path]
                if all(item in now[each.id].evidence for item in same):  # the path was cited for another of its answers
                    continue
                yield f"{label}: {each.id} still passes without what it cites"


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_degrading_an_answer_never_improves_an_outcome(name: str) -> None:
    record = DEVICES[name]()
    found = list(violations(record))
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_no_check_breaks_on_a_recorded_device(name: str) -> None:
    broken = [f"{each.id}: {each.observed}" for each in findings(report(DEVICES[name]())).values() if each.outcome is Outcome.ERROR]
    assert not broken


def test_every_requirement_has_a_check() -> None:
    families = {check.requirement for check in CHECKS}
    assert {requirement.family for requirement in SET.requirements} <= families


def test_an_empty_record_decides_nothing() -> None:
    empty = Record("snapshot", "nothing", "t", "2026-11-22T00:00:00+00:00", {})
    assert {each.outcome for each in findings(report(empty)).values()} == {Outcome.UNKNOWN}
    assert printable(report(empty).verdict.value) == "incomplete"

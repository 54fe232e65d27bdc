"""Every advice on an unknown is one that can be taken: on every recorded device, and taken where the program itself can take it."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from importlib import resources

import pytest
import typer.main

from auditor import audit, cli, registry, requirements
from auditor.engine import _HOW_TO
from auditor.facts.collect import collect
from auditor.facts.plan import plan_document, read_plan
from auditor.facts.reading import Device
from auditor.inference.wire import Outcome as RunEnd
from auditor.model import Outcome, Remedy, Status
from auditor.request import Request
from auditor.sources import base, recording
from auditor.sources.base import Reply
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from checks.zoo_runs import WAYS_OUT
from fixtures import chromebook, devices, laptop, trees

DAY = datetime.date(2026, 11, 30)
DEVICE = typer.main.get_command(cli.app).commands["device"]
OPTIONS = {flag for each in DEVICE.params for flag in each.opts}
OF_OTHERS = {"--profile"}
"""Options of other programs that an advice names: minijail0's."""


def _demo():
    return recording.load(str(resources.files("auditor.data") / "demo.snapshot"))


def _planned(record, **changes):
    """A record that was asked for with another plan."""
    plan = replace(read_plan(Device(Replay(record))).open(), **changes)
    return devices.answered(record, {base.plan(): Reply(Status.OK, plan_document(plan))})


def _empty(tmp_path):
    (tmp_path / "sys").mkdir()
    recorder = Recorder(Tree(str(tmp_path)))
    collect(recorder)
    return recorder.record("test", "2026-01-01T00:00:00+00:00")


RECORDS = {
    "demo": _demo,
    "unprobed": devices.unprobed,
    "laptop": laptop.laptop,
    "passed-through": laptop.passed_through,
    "chromebook": chromebook.chromebook,
    **{make.__name__: (lambda make=make: trees.built(make)) for make in trees.EVERY},
    "demo, no zoo": lambda: _planned(_demo(), runs=(), zoo_left_out=True, zoo_note="left out by --no-zoo"),
    "demo, no runtime": lambda: _planned(_demo(), runs=(), delegate="/lib/x.so", zoo_note="no TFLite runtime: none is installed"),
    "demo, under --root": lambda: _planned(_demo(), runs=(), delegate="/lib/x.so", zoo_note="nothing is run under --root"),
    "demo, interrupted": lambda: _planned(_demo(), runs=(), delegate="/lib/x.so", zoo_note="The measurement was interrupted."),
}


def _judged(record, **options):
    request = Request(snapshot="x", today=DAY, **options)
    return audit.judged(record, audit.read_rules(request, requirements.load()), request)


def _unknowns(report):
    return [each for result in report.requirements for each in result.findings if each.outcome is Outcome.UNKNOWN]


def _flags(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def _takeable(text):
    """An advice is a sentence, names only options that there are, and does not send back to what kept it from being decided."""
    assert text[:1].isupper()
    assert text.rstrip()[-1] in ".)"
    assert _flags(text) - OF_OTHERS <= OPTIONS, text
    for command in re.findall(r"`crosml-audit ([a-z]+)", text):
        assert command in typer.main.get_command(cli.app).commands, text


@pytest.mark.parametrize("name", [*RECORDS, "empty"])
def test_every_unknown_of_a_recorded_device_has_an_advice_that_can_be_taken(name, tmp_path):
    record = _empty(tmp_path) if name == "empty" else RECORDS[name]()
    unknowns = _unknowns(_judged(record))
    assert unknowns
    for each in unknowns:
        _takeable(each.remediation)
        note = each.observed
        if "under --root" in note:
            assert "on the device itself" in each.remediation, each.id
        if "no TFLite runtime" in note:
            assert (each.remedy, "--runtime" in each.remediation) == (Remedy.RUNTIME, True), each.id
        if "left out by --no-zoo" in note:
            assert "--no-zoo" in each.remediation, each.id
        if each.remedy is Remedy.DELEGATE:
            assert "--delegate" in each.remediation, each.id
            assert "named" not in note or "no delegate was named" in note, "not to who has named it"


def test_advice_that_no_recorded_device_gives_can_be_taken():
    for text in (*_HOW_TO.values(), *WAYS_OUT.values(), *(each.remediation for each in registry.checks(plugins=False))):
        _takeable(text)
    assert set(_HOW_TO) == set(Remedy)
    assert set(WAYS_OUT) <= {each.value for each in RunEnd}


@pytest.mark.parametrize("make", trees.EVERY, ids=lambda make: make.__name__)
def test_saying_what_a_device_is_takes_its_unknown_away(make):
    """`--not-an-accelerator ID`, where a report advises it."""
    record = trees.built(make)
    for each in _unknowns(_judged(record)):
        for subject in re.findall(r"--not-an-accelerator (\S+?)`", each.remediation):
            told = _judged(record, not_accelerators=(subject,))
            assert not any(left.remedy is Remedy.WHAT_IT_IS and left.subject == subject for left in _unknowns(told)), each.id


def test_the_advice_of_a_measurement_that_was_left_out_is_right_for_the_demonstration():
    """The same record with the plan that the advice leads to: the unknowns that it is given for are gone, or say something else."""
    before = _judged(RECORDS["demo, no zoo"]())
    advised = {each.id for each in _unknowns(before) if "--no-zoo" in each.remediation}
    after = {each.id: each.remediation for each in _unknowns(_judged(_planned(RECORDS["demo, no zoo"](), zoo_left_out=False, zoo_note="")))}
    assert advised
    assert not [name for name in advised if "--no-zoo" in after.get(name, "")]

"""Reports read back: believed only where they add up; compared by what became of each finding."""

from __future__ import annotations

import dataclasses
import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import AuditError
from auditor.model import Evidence, Level, Outcome, Status
from auditor.reporting import SIZE_LIMIT, diff, load_report
from fixtures.hostile import reports
from fixtures.report import NPU, WAIVER, finding, report, result, sample
from reports.json import render

DOMAIN = "security-3.domain@" + NPU


def refusal(path, text):
    path.write_text(text)
    with pytest.raises(AuditError) as caught:
        load_report(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.json"


def test_a_report_is_read_back(path):
    path.write_text(render(sample()))
    assert load_report(str(path)) == sample()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AuditError, match="No such file or directory"):
        load_report(str(tmp_path / "none.json"))
    with pytest.raises(AuditError, match="Is a directory"):
        load_report(str(tmp_path))
    with pytest.raises(AuditError, match="null byte"):
        load_report("a\x00b")


def test_a_file_that_is_too_large_is_refused(path):
    with path.open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    with pytest.raises(AuditError, match="expected at most"):
        load_report(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected JSON"),
        ("{}", "schema: expected, but it is not there"),
        ('{"schema": 1}', "schema: expected str, got int"),
        ('{"schema": "crosml-audit/report/9\\u001b"}', "schema: expected crosml-audit/report/1, got 'crosml-audit/report/9\\x1b'"),
        ('{"schema": "crosml-audit/report/1"}', "tool: expected, but it is not there"),
    ],
)
def test_what_is_no_report_is_refused(path, text, message):
    assert refusal(path, text) == message


def test_any_cut_of_a_report_is_refused(path):
    text = render(sample())
    for end in range(0, len(text) - 2, len(text) // 7):
        assert refusal(path, text[:end])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda document: document.update(verdict="compliant"),
            "verdict: expected non-compliant, which the requirements add up to, got compliant",
        ),
        (lambda document: document["counts"].update(fail=0), "counts: expected those of the findings"),
        (
            lambda document: document["requirements"][4].update(outcome="pass"),
            "requirements[4].outcome: expected fail, which its findings add up to, got pass",
        ),
        (
            lambda document: document["requirements"][4]["findings"][0].update(outcome="pass"),
            "requirements[4].outcome: expected pass, which its findings add up to, got fail",
        ),
        (
            lambda document: document["requirements"][2]["findings"][0].update(waiver=document["requirements"][0]["findings"][0]["waiver"]),
            f"requirements[2]: security-1.nodes@{NPU} is error and waived; only fail and unknown can be",
        ),
        (
            lambda document: document["requirements"][3].update(findings=document["requirements"][4]["findings"]),
            f"requirements: {DOMAIN} is there 2 times, expected once",
        ),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(path, change, message):
    document = json.loads(render(sample()))
    change(document)
    assert refusal(path, json.dumps(document)) == message


def test_equal_reports_have_no_difference():
    assert list(diff(sample(), sample())) == []


def test_a_figure_that_moves_without_an_outcome_is_no_difference():
    first, second = (report(result("misc-1", finding("misc-1.size@device", Outcome.PASS, observed=size))) for size in ("1 MB", "2 MB"))
    assert list(diff(first, second)) == []


def test_a_difference_says_what_and_why():
    denied = Evidence("/sys/type", Status.DENIED)
    read = Evidence("/sys/type", Status.OK, "ab" * 32, "DMA\n")
    old = report(result("security-3", finding(DOMAIN, Outcome.UNKNOWN, observed="may not be read", reason="Denied.", evidence=(denied,))))
    new = report(result("security-3", finding(DOMAIN, Outcome.PASS, observed="domain type DMA", reason="Translates.", evidence=(read,))))
    assert list(diff(old, new)) == [
        "verdict: incomplete, now compliant",
        "security-3: unknown, now pass",
        f"  {DOMAIN}: unknown, now pass",
        "    was: may not be read. Denied.",
        "    now: domain type DMA. Translates.",
        "    /sys/type: denied, now ok DMA\\n abababababab",
    ]


def test_a_waiver_is_a_difference():
    failed = finding(DOMAIN, Outcome.FAIL)
    waiver = dataclasses.replace(WAIVER, expires=datetime.date(2027, 1, 1))
    lines = list(diff(report(result("security-3", failed)), report(result("security-3", dataclasses.replace(failed, waiver=waiver)))))
    assert lines[:3] == [
        "verdict: non-compliant, now compliant",
        "security-3: fail, now fail, waived",
        f"  {DOMAIN}: fail, now fail, waived by A. Reviewer until 2027-01-01: The driver is under review upstream.",
    ]


def test_findings_and_requirements_that_come_and_go_are_told():
    old = report(result("misc-1", finding("misc-1.size@device", Outcome.PASS)), requirements_set="old")
    new = report(result("misc-2", finding("misc-2.events@device", Outcome.FAIL, level=Level.SHOULD), level=Level.SHOULD), accelerators=())
    lines = list(diff(old, new))
    assert "requirements set: old, now chromeos-ml-accelerator R113, zoo 0.0.2" in lines
    assert f"accelerators: {NPU} driver npu, now none" in lines
    assert "misc-1: pass, now gone" in lines
    assert "  misc-1.size@device: pass, now gone" in lines
    assert "misc-2: new, unknown (should)" in lines
    assert "  misc-2.events@device: new, fail (should)" in lines


def test_a_change_of_reason_alone_is_told():
    first, second = (report(result("misc-1", finding("misc-1.size@device", Outcome.FAIL, reason=reason))) for reason in ("One.", "Two."))
    assert list(diff(first, second))[:2] == ["misc-1: still fail", "  misc-1.size@device: still fail"]


@given(reports(), reports())
def test_a_difference_is_safe_to_show(old, new):
    assert all(line.isprintable() for line in diff(old, new))
    assert list(diff(old, old)) == []


@given(reports(st.text(st.characters(codec="utf-8"), max_size=8)))
def test_every_report_that_adds_up_is_read_back(tmp_path_factory, report):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(render(report))
    assert load_report(str(path)) == report

"""Reports read back: believed only where they add up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import AuditError
from auditor.reporting import SIZE_LIMIT, load_report
from fixtures.hostile import reports
from fixtures.report import NPU, sample
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
        ("{}", "schema: missing"),
        ('{"schema": 1}', "schema: expected str, got int"),
        ('{"schema": "crosml-audit/report/9\\u001b"}', "schema: expected crosml-audit/report/1, got 'crosml-audit/report/9\\x1b'"),
        ('{"schema": "crosml-audit/report/1"}', "tool: missing"),
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


@given(reports(st.text(st.characters(codec="utf-8"), max_size=8)))
def test_every_report_that_adds_up_is_read_back(tmp_path_factory, report):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(render(report))
    assert load_report(str(path)) == report

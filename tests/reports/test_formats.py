"""Every format for programs, by its official schema or a reader of others; with each outcome, waived, and full of hostile text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import string
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from auditor import registry
from auditor.model import Evidence, Level, Outcome, Report, Status, Verdict
from fixtures.hostile import TEXT, reports
from fixtures.report import NPU, WAIVER, finding, report, result, run, sample
from reports import codequality, ctrf, github, in_toto, junit, kcidb, markdown, oscal, sarif
from reports import csv as csv_format
from reports.machine import EVIDENCE
from reports.machine import TEXT as TEXT_LIMIT
from tests.archive import needed, npm
from tests.reports import readers

READERS = {
    "sarif": readers.sarif,
    "ctrf": readers.ctrf,
    "kcidb": readers.kcidb,
    "oscal": readers.oscal,
    "in-toto": readers.in_toto,
    "csv": readers.rows,
    "junit": readers.suites,
    "json": json.loads,
    "codequality": json.loads,
}
FORMATS = registry.formats(plugins=False)
EMPTY = report()
GITHUB = "@actions/core@3.0.1"


def one(outcome: Outcome, *, level: Level = Level.MUST, **changes: object) -> Report:
    """A report of one finding."""
    return report(result("security-3", finding(f"security-3.domain@{NPU}", outcome, level=level, **changes)))


EACH = [
    sample(),
    EMPTY,
    *(one(outcome, level=level) for outcome in Outcome for level in Level),
    *(one(outcome, waiver=WAIVER) for outcome in (Outcome.FAIL, Outcome.UNKNOWN)),
]


@pytest.mark.parametrize("name", READERS)
def test_every_format_is_valid_with_each_outcome_waived_and_empty(name):
    for each in EACH:
        READERS[name](FORMATS[name].render(each))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(told=reports())
def test_every_format_is_valid_and_quiet_whatever_a_device_says(name, told):
    text = FORMATS[name].render(told)
    READERS[name](text)
    assert all(char.isprintable() or char in "\r\n" for char in text)


@settings(max_examples=40, deadline=None)
@given(reports())
def test_the_formats_for_logs_are_quiet_too(told):
    for name in ("github", "markdown"):
        assert all(char.isprintable() or char in "\n\u200b" for char in FORMATS[name].render(told))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"json", "text", "html"}))
def test_long_texts_and_many_findings_are_bounded(name):
    loud = finding(
        "a.b@c", Outcome.FAIL, observed="x" * 1_000_000, evidence=(Evidence("p" * 9000, Status.OK, None, "y" * 1_000_000),) * 200
    )
    assert len(FORMATS[name].render(report(result("a", loud)))) < 4 * EVIDENCE * 2 * TEXT_LIMIT
    many = report(result("a", *(finding(f"a.b@{number}", Outcome.FAIL) for number in range(2_000))))
    size = len(FORMATS[name].render(many))
    assert size < (65_536 if name == "markdown" else 2_000 * 3_000)


def test_sarif_holds_what_did_not_pass_as_results_with_a_place_and_the_rest_by_name():
    (log,) = readers.sarif(sarif.render(sample()))["runs"]
    told = {each["properties"]["finding"]: each for each in log["results"]}
    everything = {each.id: each for requirement in sample().requirements for each in requirement.findings}
    named = set(log["properties"]["pass"]) | set(log["properties"]["not-applicable"])
    assert set(told) | named == set(everything)
    assert not set(told) & named
    for name, each in told.items():
        assert each["locations"], "a code scanning site refuses the whole file"
        assert (each["level"] == "none") == (everything[name].outcome is not Outcome.FAIL)
    waived = told[WAIVER.finding]
    assert (waived["kind"], waived["level"]) == ("fail", "error")
    assert waived["suppressions"][0]["justification"].startswith("The driver is under review upstream.")
    assert told[f"security-3.reserved@{NPU}"]["level"] == "warning"
    assert told[f"security-1.nodes@{NPU}"]["kind"] == "open"
    assert log["invocations"][0]["executionSuccessful"] is False
    assert log["invocations"][0]["toolExecutionNotifications"][0]["associatedRule"]["id"] == "security-1.nodes"
    rules = log["tool"]["driver"]["rules"]
    assert all(rules[each["ruleIndex"]]["id"] == each["ruleId"] for each in log["results"])


def test_fingerprints_stay_from_one_audit_to_the_next():
    later = sample(device=dataclasses.replace(sample().device, snapshot_sha256="ee" * 32, collected_at="2026-09-09T00:00:00Z"))
    prints = [[each["partialFingerprints"] for each in json.loads(sarif.render(told))["runs"][0]["results"]] for told in (sample(), later)]
    assert prints[0] == prints[1]
    assert len({each["crosmlAuditFinding/v1"] for each in prints[0]}) == len(prints[0])


@pytest.mark.parametrize(
    ("outcome", "level", "waiver", "status"),
    [
        (Outcome.PASS, Level.MUST, None, "passed"),
        (Outcome.FAIL, Level.MUST, None, "failed"),
        (Outcome.ERROR, Level.MUST, None, "failed"),
        (Outcome.UNKNOWN, Level.MUST, None, "other"),
        (Outcome.NOT_APPLICABLE, Level.MUST, None, "skipped"),
        (Outcome.FAIL, Level.SHOULD, None, "skipped"),
        (Outcome.FAIL, Level.MUST, WAIVER, "skipped"),
    ],
)
def test_ctrf_status(outcome, level, waiver, status):
    tests = readers.ctrf(ctrf.render(one(outcome, level=level, waiver=waiver)))["results"]["tests"]
    assert tests[0]["status"] == status
    assert tests[0]["rawStatus"].startswith(outcome.value)
    assert ("waived" in tests[0]["rawStatus"]) == bool(waiver)


def test_ctrf_counts_what_it_lists():
    results = readers.ctrf(ctrf.render(sample()))["results"]
    for status in ("passed", "failed", "skipped", "pending", "other"):
        assert results["summary"][status] == sum(each["status"] == status for each in results["tests"])
    assert results["summary"]["tests"] == len(results["tests"])


def test_kcidb_status_and_numbers():
    told = readers.kcidb(kcidb.render(sample()))
    by_finding = {each["misc"].get("finding"): each for each in told["tests"]}
    wanted = {"pass": "PASS", "fail": "FAIL", "unknown": "MISS", "error": "ERROR", "not-applicable": "SKIP"}
    for requirement in sample().requirements:
        for each in requirement.findings:
            assert by_finding[each.id]["status"] == wanted[each.outcome.value], "a waiver changes no status"
    assert "review upstream" in by_finding[WAIVER.finding]["misc"]["waiver"]
    measured = [each for each in told["tests"] if each["status"] == "DONE"]
    assert [each["number"]["value"] for each in measured] == [0.0044, 0.0044]
    (broken,) = readers.kcidb(kcidb.render(report(model_runs=(run("m", status="died"),))))["tests"]
    assert broken["status"] == "MISS"
    assert len({each["id"] for each in told["tests"]}) == len(told["tests"])


@pytest.mark.parametrize(
    ("outcome", "waiver", "state", "reason"),
    [
        (Outcome.PASS, None, "satisfied", "pass"),
        (Outcome.FAIL, None, "not-satisfied", "fail"),
        (Outcome.FAIL, WAIVER, "satisfied", "other"),
        (Outcome.UNKNOWN, None, "not-satisfied", "other"),
        (Outcome.ERROR, None, "not-satisfied", "other"),
        (Outcome.NOT_APPLICABLE, None, "satisfied", "other"),
    ],
)
def test_oscal_state(outcome, waiver, state, reason):
    (told,) = readers.oscal(oscal.render(one(outcome, waiver=waiver)))["assessment-results"]["results"]
    (about,) = told["findings"]
    assert about["target"]["status"] == {"state": state, "reason": reason}
    assert about["related-observations"][0]["observation-uuid"] == told["observations"][0]["uuid"]
    assert ("waived: The driver" in about.get("remarks", "")) == bool(waiver)


def test_the_record_is_named_by_its_digest():
    (resource,) = readers.oscal(oscal.render(sample()))["assessment-results"]["back-matter"]["resources"]
    assert resource["rlinks"][0]["hashes"] == [{"algorithm": "SHA-256", "value": "cd" * 32}]
    assert readers.in_toto(in_toto.render(sample()))["subject"] == [{"name": "record.json", "digest": {"sha256": "cd" * 32}}]


def test_a_report_that_has_no_digest_of_its_record_is_itself_the_subject():
    told = sample(device=dataclasses.replace(sample().device, snapshot_sha256="none"))
    (subject,) = readers.in_toto(in_toto.render(told))["subject"]
    assert subject == {"name": "report.json", "digest": {"sha256": hashlib.sha256(FORMATS["json"].render(told).encode()).hexdigest()}}


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (one(Outcome.PASS), "PASSED"),
        (one(Outcome.FAIL), "FAILED"),
        (one(Outcome.UNKNOWN), "FAILED"),
        (one(Outcome.ERROR), "FAILED"),
        (one(Outcome.FAIL, waiver=WAIVER), "WARNED"),
        (EMPTY, "FAILED"),
    ],
)
def test_in_toto_result_is_passed_only_for_what_is_shown(told, wanted):
    predicate = readers.in_toto(in_toto.render(told))["predicate"]
    assert predicate["result"] == wanted
    assert (wanted == "FAILED") == (told.verdict is not Verdict.COMPLIANT)


def test_in_toto_sorts_every_test():
    predicate = readers.in_toto(in_toto.render(sample()))["predicate"]
    assert predicate["warnedTests"] == [WAIVER.finding, f"security-3.reserved@{NPU}", f"misc-2.events@{NPU}"]
    assert "security-2" in predicate["failedTests"], "a requirement without an answer has not passed"
    assert len(predicate["passedTests"]) == sample().counts["pass"]


def test_csv_has_a_row_for_each_finding_and_for_what_has_none():
    found = readers.rows(csv_format.render(sample()))
    assert [each["finding"] for each in found if each["finding"]] == [
        each.id for requirement in sample().requirements for each in requirement.findings
    ]
    (silent,) = [each for each in found if not each["finding"]]
    assert silent["requirement"] == "security-2"
    (waived,) = [each for each in found if each["waived"] == "yes"]
    assert (waived["outcome"], waived["requirement_outcome"], waived["waiver_expires"]) == ("fail", "fail, waived", "2026-12-31")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\uff1d1", "\r\n=1", "'=1", "=cmd|' /C calc'!A0"])
def test_csv_holds_no_formula(text):
    (row,) = readers.rows(csv_format.render(one(Outcome.FAIL, observed=text)))
    assert not row["observed"].lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
    assert row["observed"].lstrip("' ").endswith(text.strip()[-1])


@given(TEXT)
def test_no_cell_is_a_formula(text):
    assert not csv_format.cell(text).lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))


READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ALLOWED = {"heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close", "bullet_list_open", "bullet_list_close"}
ALLOWED |= {"list_item_open", "list_item_close"} | {
    f"{each}_{end}" for each in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")
}


@given(
    reports(
        TEXT | st.text(string.printable, max_size=40) | st.sampled_from(("@root", "#1", "!1", "http://x.y", "www.x.y", "a|b", "`a", "``|`"))
    )
)
def test_markdown_shows_text_and_nothing_else(told):
    text = markdown.render(told)
    for token in READER.parse(text):
        assert token.type in ALLOWED, token
        for child in token.children or ():
            assert child.type in {"text", "code_inline", "softbreak", "text_special"}, child
            if child.type != "code_inline":
                assert "http://" not in child.content
                assert "www." not in child.content
                assert "@root" not in child.content
                assert "#1" not in child.content
    lines = text.splitlines()
    for line in lines:
        if line.startswith("| "):
            assert line.endswith(" |")


@given(st.text(string.printable + "\u202e\u2028é😀@#", min_size=1, max_size=60))
def test_markdown_text_reads_as_it_was(text):
    (_, inline, _) = READER.parse(f"x {markdown.escaped(text)} x")
    assert "".join(child.content for child in inline.children).replace("\u200b", "") == f"x {' '.join(text.split())} x"
    (_, inline, _) = READER.parse("x" + markdown.code("x" + text.replace("|", "").replace("\n", " ").replace("\r", " ") + "x"))
    assert [child.type for child in inline.children] == ["text", "code_inline"]


def test_markdown_tables_have_their_rows():
    text = markdown.render(sample())
    assert text.startswith("## ❌ non-compliant: npu")
    assert "fail, waived" in text
    rows = sum(token.type == "tr_open" for token in READER.parse(text))
    assert rows == 5 + len(sample().requirements) + 3 + 7 + 1 + 2, "five headers, the requirements, and what did not pass"


def test_github_commands_are_those_of_its_own_toolkit(tmp_path):
    """GitHub's toolkit writes the same bytes, whatever is in the texts."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    with needed():
        package = npm(GITHUB)
    told = [["a: b, c%", "x\r\n::error::y"], ["%0A", "100%25"], ["é,::", "\u202e::stop-commands::t"]]
    script = tmp_path / "write.mjs"
    script.write_text(
        f"import {{issueCommand}} from {json.dumps(str(package / 'lib' / 'command.js'))};"
        f"for (const [title, message] of {json.dumps(told)}) issueCommand('error', {{title}}, message);"
    )
    wanted = subprocess.run(["node", str(script)], check=True, capture_output=True, text=True).stdout
    mine = "".join(github.command("error", title, message) + "\n" for title, message in told)
    assert mine == wanted


@settings(max_examples=40, deadline=None)
@given(reports())
def test_a_device_cannot_give_commands_to_githubs_runner(told):
    for line in github.render(told).splitlines():
        assert line.startswith(("::error title=", "::warning title=", "::notice title="))


def test_github_says_errors_first_and_the_verdict_last():
    lines = github.render(sample()).splitlines()
    kinds = [line.split(" ")[0] for line in lines]
    assert kinds == ["::error"] * 3 + ["::warning"] * 7 + ["::notice"] * 2 + ["::error"]
    assert lines[-1].endswith("::non-compliant")
    assert github.render(one(Outcome.PASS)) == "::notice title=crosml-audit::compliant\n"


CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": r"^(?!\./)(?!/).+"},
                    "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer"}}},
                },
            },
        },
    },
}
"""What GitLab's manual (Code Quality, "Code Quality report format") asks of a report: it publishes no schema."""


@settings(max_examples=40, deadline=None)
@given(reports())
def test_gitlab_takes_the_code_quality_report(told):
    import jsonschema

    issues = json.loads(codequality.render(told))
    jsonschema.validate(issues, CODE_QUALITY)
    assert len({each["fingerprint"] for each in issues}) == len(issues)


def test_code_quality_shows_what_is_a_problem():
    issues = json.loads(codequality.render(sample()))
    assert [each["severity"] for each in issues].count("critical") == 2
    assert not any(each["check_name"] == "functional-1.in-tree" for each in issues), "waived"
    (domain,) = [each for each in issues if each["check_name"] == "security-3.domain"]
    assert domain["location"] == {"path": "sys/kernel/iommu_groups/7/type", "lines": {"begin": 1}}


def red(told, unknown):
    root = readers.suites(junit.render(told, unknown=unknown))
    return len(root.findall(".//failure")), len(root.findall(".//error"))


def test_a_lab_chooses_what_an_unknown_counts_as_in_junit():
    assert red(sample(), "error") == (2, 8)
    assert red(sample(), "failure") == (9, 1)
    assert red(sample(), "once") == (2, 2)
    assert red(one(Outcome.UNKNOWN), "once") == (0, 1), "never green"
    assert red(one(Outcome.PASS), "once") == (0, 0)


@settings(max_examples=40, deadline=None)
@given(reports(), st.sampled_from(("error", "failure", "once")))
def test_junit_is_red_where_the_verdict_is_not_compliant(told, unknown):
    assert (red(told, unknown) != (0, 0)) == (told.verdict is not Verdict.COMPLIANT)

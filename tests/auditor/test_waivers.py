"""Waivers: which finding a pattern covers, on which board, until when; what is said of each; drafts."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor import engine
from auditor.codec import MOST_WAIVERS, decode_waivers
from auditor.errors import UsageError
from auditor.model import DeviceSummary, Level, Outcome, Verdict, Waiver
from auditor.waivers import SOON, draft, in_force, matches, states
from fixtures.hostile import reports
from fixtures.report import NPU, finding, report, result, sample

TODAY = datetime.date(2026, 3, 1)
DAY = datetime.timedelta(days=1)
DOMAIN = "security-3.domain@pci:0000:00:05.0"


def waiver(name, expires=TODAY + 2 * SOON, **changes):
    return Waiver(name, "known", "A. Reviewer", expires, **changes)


def device(board=""):
    return DeviceSummary("snapshot", "npu", "cd" * 32, "2026-03-01T12:00:00Z", board=board)


def remarks(waivers, *findings, board=""):
    given_report = report(*(result(each.check.partition(".")[0], each) for each in findings), device=device(board))
    covered = engine.waived(given_report, waivers, TODAY)
    return [state.remark for state in states(waivers, covered.requirements, TODAY, board)]


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        (DOMAIN, DOMAIN, True),
        ("security-3.domain@*", DOMAIN, True),
        ("security-3.*@pci:*", DOMAIN, True),
        ("security-3.domain@pci:0000:0?:05.0", DOMAIN, True),
        ("security-3.domain", DOMAIN, False),
        ("security-3.domain@*", "security-3.domain-type@x", False),
        ("Security-3.domain@*", DOMAIN, False),
        ("misc-1.closure@file:/a[1].so", "misc-1.closure@file:/a1.so", False),
        ("misc-1.closure@file:/a[1]*", "misc-1.closure@file:/a[1].so", True),
        ("misc-1.closure@file:/a[1]*", "misc-1.closure@file:/a1.so", False),
        ("misc-1.closure@*", "misc-1.closure@file:/a\nb", True),
        ("misc-1.closure@file:/a.so", "misc-1.closure@file:/aXso", False),
    ],
)
def test_a_pattern_fits_whole_ids(pattern, name, fits):
    assert matches(pattern, name) is fits


def test_a_hostile_pattern_takes_no_time():
    before = time.process_time()
    assert not matches("a@" + "*a" * 500 + "b", "a@" + "a" * 100_000)
    plain = time.process_time() - before
    assert plain < 60  # exponential would be years


@pytest.mark.parametrize(
    ("finding_", "broad"),
    [
        ("security-3.domain@*", False),
        ("zoo-*.baseline@*", False),
        (DOMAIN, False),
        ("security-3.*@*", True),
        ("security-3*", True),
        ("security-3.domain*", True),
        ("s*@*", True),
    ],
)
def test_a_pattern_that_names_no_check_is_too_broad_whatever_it_covers(finding_, broad):
    (state,) = states([waiver(finding_)], None, TODAY)
    assert state.wrong is broad
    assert ("is too broad: expected the word of a check before the @." in state.remark) is broad
    assert any("too broad" in each for each in remarks([waiver(finding_)], finding(DOMAIN, Outcome.FAIL))) is (
        broad and matches(finding_, DOMAIN)
    )


def test_of_a_partial_report_no_waiver_is_said_to_be_unused():
    plain = report(result("security-3", finding(DOMAIN, Outcome.FAIL)), result("misc-1"))
    partial = dataclasses.replace(plain, requirements=(plain.requirements[0], dataclasses.replace(plain.requirements[1], selected=False)))
    for given_report, said in ((plain, True), (partial, False)):
        (state,) = states([waiver("misc-1.size@device")], given_report.requirements, TODAY)
        assert bool(state.remark) is said


def test_a_file_of_waivers_has_bounds():
    def text(count, pattern="a.b@c", **more):
        fields = {"finding": pattern, "reason": "r", "author": "a", **more}
        return (
            ("[[waiver]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()) + "expires = 2027-01-01\n") * count
        ).encode()

    assert len(decode_waivers(text(MOST_WAIVERS), "w")) == MOST_WAIVERS
    for wrong, reason in (
        (text(MOST_WAIVERS + 1), "w: waiver: expected at most 4096 entries"),
        (text(1, "a.b@" + "*a" * 1000), r"w: waiver\[0\].finding: expected a pattern of at most 1000 characters"),
        (text(1, board="a*" * 1000), r"w: waiver\[0\].board: expected at most 1000 characters"),
    ):
        with pytest.raises(UsageError, match=reason):
            decode_waivers(wrong, "w")
    assert decode_waivers(text(1, "misc-1.closure@file:/" + "a" * 4000), "w")  # a path may be long


@pytest.mark.parametrize("moment", ["2027-01-01T00:00:00Z", "2027-01-01T10:00:00", '"2027-01-01T00:00:00"', "10:00:00"])
def test_a_waiver_expires_on_a_day(moment):
    text = f'[[waiver]]\nfinding = "a.b@c"\nreason = "r"\nauthor = "a"\nexpires = {moment}\n'
    with pytest.raises(UsageError, match=r"waiver\[0\].expires: expected"):
        decode_waivers(text.encode(), "w")


@pytest.mark.parametrize("name", ["*", "**@*", "*@pci:0000:00:05.0", "??*@device", "@*"])
def test_a_waiver_of_anything_is_refused(name):
    text = f'[[waiver]]\nfinding = {json.dumps(name)}\nreason = "r"\nauthor = "a"\nexpires = 2026-12-31\n'
    with pytest.raises(UsageError, match=r"w.toml: waiver\[0\].finding: expected a check before the @"):
        decode_waivers(text.encode(), "w.toml")


def test_a_pattern_covers_each_finding_that_it_names():
    failed = [finding(f"security-3.domain@pci:{number}", Outcome.FAIL) for number in range(3)]
    other = finding("security-3.reserved@pci:0", Outcome.FAIL)
    covered = engine.waived(report(result("security-3", *failed, other)), [waiver("security-3.domain@*")], TODAY)
    assert [bool(each.waiver) for each in covered.requirements[0].findings] == [True, True, True, False]
    assert covered.verdict is Verdict.NON_COMPLIANT


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.ERROR, Outcome.NOT_APPLICABLE])
def test_a_pattern_covers_only_what_can_be_waived(outcome):
    covered = engine.waived(report(result("security-3", finding(DOMAIN, outcome))), [waiver("security-3.domain@*")], TODAY)
    assert covered.counts["waived"] == 0


@pytest.mark.parametrize(
    ("of_waiver", "board", "covers"),
    [("", "", True), ("", "corsola", True), ("corsola*", "corsola-r2", True), ("corsola", "corsola-r2", False), ("corsola*", "", False)],
)
def test_a_waiver_of_a_board_covers_no_other(of_waiver, board, covers):
    one = waiver(DOMAIN, board=of_waiver)
    covered = engine.waived(report(result("security-3", finding(DOMAIN, Outcome.FAIL)), device=device(board)), [one], TODAY)
    assert (covered.counts["waived"] == 1) is covers
    assert bool(in_force([one], TODAY, board)) is covers


def test_the_waiver_that_names_a_finding_goes_before_a_pattern():
    exact = waiver(DOMAIN, ticket="T-2")
    covered = engine.waived(
        report(result("security-3", finding(DOMAIN, Outcome.FAIL))), [waiver("security-3.domain@*", ticket="T-1"), exact], TODAY
    )
    assert covered.requirements[0].findings[0].waiver == exact


def test_what_is_said_of_each_waiver():
    failed, passed = finding(DOMAIN, Outcome.FAIL), finding("misc-1.size@device", Outcome.PASS)
    other = finding("security-3.reserved@device", Outcome.UNKNOWN)
    assert remarks([waiver(DOMAIN)], failed) == [""]
    assert remarks([waiver(DOMAIN, TODAY - DAY)], failed) == [f"The waiver of {DOMAIN} expired on 2026-02-28 and covers nothing."]
    assert remarks([waiver(DOMAIN, TODAY)], failed) == [
        f"The waiver of {DOMAIN} expires soon: 2026-03-01 is the last day that it is in force."
    ]
    assert remarks([waiver(DOMAIN, TODAY + SOON + DAY)], failed) == [""]
    assert remarks([waiver("misc-1.size@device")], passed) == ["The waiver of misc-1.size@device matches no failed or unknown finding."]
    assert remarks([waiver(DOMAIN, board="corsola")], failed, board="geralt") == [
        f"The waiver of {DOMAIN} on corsola covers nothing: this board is geralt."
    ]
    assert remarks([waiver(DOMAIN, board="corsola")], failed) == [
        f"The waiver of {DOMAIN} on corsola covers nothing: the board is not known."
    ]
    assert remarks([waiver("security-3.?*@*")], failed, other) == [
        "The waiver of security-3.?*@* is too broad: it covers 2 findings of 2 checks. Write one for each check."
    ]
    assert remarks([waiver(DOMAIN), waiver("security-3.domain@*")], failed) == [
        "",
        "The waiver of security-3.domain@* covers nothing: another one covers what it names.",
    ]


def test_without_waivers_a_report_is_what_it_was():
    plain = report(result("security-3", finding(DOMAIN, Outcome.FAIL)), result("misc-1", finding("misc-1.size@device", Outcome.PASS)))
    covered = engine.waived(plain, [waiver(DOMAIN)], TODAY)
    assert covered.verdict is Verdict.COMPLIANT
    assert (covered.requirements[0].outcome, covered.requirements[0].waived) == (Outcome.FAIL, True)
    again = engine.unwaived(covered)
    assert dataclasses.replace(again, notes=()) == plain
    assert again.notes == ("Waivers were not applied.",)


@given(reports())
def test_no_waiver_is_left_by_no_waivers(given_report):
    bare = engine.unwaived(given_report)
    assert bare.counts["waived"] == 0
    assert engine.unwaived(bare).requirements == bare.requirements


def test_a_draft_is_refused_until_it_is_filled_in_and_covers_what_fails_then():
    given_report = sample(device=device("corsola"))
    text = draft(given_report, TODAY)
    assert "expires = 2026-05-30\n" in text
    assert 'board = "corsola"\n' in text
    with pytest.raises(UsageError, match=r"waiver\[0\].reason: expected text"):
        decode_waivers(text.encode(), "w.toml")
    filled = text.replace('reason = ""', 'reason = "r"').replace('author = ""', 'author = "a"')
    covered = engine.waived(given_report, decode_waivers(filled.encode(), "w.toml"), TODAY)
    assert covered.counts["waived"] == 3 - 1  # the one that the sample waives itself is not drafted again
    left = [each for each in covered.requirements if each.standing is Outcome.FAIL]
    assert [each.id for each in left] == ["functional-1"]
    assert f'finding = "security-3.reserved@{NPU}"' not in text  # a recommendation


@given(reports(st.text(st.characters(codec="utf-8"), max_size=12)))
def test_a_draft_of_any_report_is_toml_that_names_its_findings(given_report):
    text = draft(given_report, TODAY).replace('reason = ""', 'reason = "r"').replace('author = ""', 'author = "a"')
    failed = [
        each.id
        for result_ in given_report.requirements
        for each in result_.findings
        if each.outcome is Outcome.FAIL and not each.waiver and Level.MUST is each.level is result_.level
    ]
    if failed:
        assert [each.finding for each in decode_waivers(text.encode(), "w.toml")] == failed

"""Two reports compared: what changed, and for each kind of cause that the right one is named."""

from __future__ import annotations

import dataclasses
import datetime
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor import comparison
from auditor.comparing import Cause, changed_part, compare
from auditor.model import DeviceSummary, Evidence, Level, Outcome, Status, Tool
from fixtures.hostile import TEXT, reports
from fixtures.report import NPU, SELFIE, WAIVER, finding, report, result, run, sample

DOMAIN = "security-3.domain@" + NPU
TYPE = "/sys/type"
READ = Evidence(TYPE, Status.OK, "ab" * 32, "DMA\n")
LATENCY = f"zoo-{SELFIE}-latency"
ZOO = f"{LATENCY}.baseline@model:{SELFIE}"


def record(digest):
    return DeviceSummary("snapshot", "npu-board", digest * 64, "2026-03-01T12:00:00Z", "6.12.38")


def one(outcome, *evidence, on="1", **changes):
    """A report with one finding, on the record of that name."""
    of_report = {name: changes.pop(name) for name in ("tool", "requirements_set", "judged_with") if name in changes}
    limits = changes.pop("limits", {})
    found = dataclasses.replace(result("security-3", finding(DOMAIN, outcome, evidence=evidence, **changes)), limits=limits)
    return report(found, device=record(on), **of_report)


def zoo(outcome, *latencies, on="1"):
    found = dataclasses.replace(result(LATENCY, finding(ZOO, outcome)), model=SELFIE)
    return report(found, device=record(on), model_runs=tuple(run(SELFIE, bracket_us=value) for value in latencies))


def causes(old, new):
    (change,) = compare(old, new).findings
    return set(change.causes)


IDENTITY = dataclasses.replace(READ, excerpt="identity\n")
DENIED = Evidence(TYPE, Status.DENIED)
SLOW, FAST = (900.0, 910.0, 905.0, 903.0, 908.0), (400.0, 410.0, 405.0, 403.0, 408.0)
CAUSES = {
    "the device says something else": (one(Outcome.PASS, READ), one(Outcome.FAIL, IDENTITY, on="2"), {Cause.DEVICE}),
    "a file of the device is gone": (
        one(Outcome.PASS, READ),
        one(Outcome.FAIL, dataclasses.replace(READ, status=Status.ABSENT), on="2"),
        {Cause.DEVICE},
    ),
    "a limit is stricter": (
        one(Outcome.PASS, READ, limits={"latency_ms": 5}),
        one(Outcome.FAIL, READ, limits={"latency_ms": 4}, requirements_set="stricter"),
        {Cause.REQUIREMENTS},
    ),
    "another set, another record, and the same question": (
        one(Outcome.PASS, READ),
        one(Outcome.FAIL, IDENTITY, on="2", requirements_set="other"),
        {Cause.DEVICE},
    ),
    "another auditor on the same record": (
        one(Outcome.PASS, READ),
        one(Outcome.FAIL, READ, tool=Tool("crosml-audit", "9")),
        {Cause.AUDITOR},
    ),
    "another auditor on another record with the same evidence": (
        one(Outcome.PASS, READ),
        one(Outcome.FAIL, READ, on="2", tool=Tool("crosml-audit", "9")),
        {Cause.AUDITOR},
    ),
    "a root that is trusted now": (
        one(Outcome.FAIL, READ),
        one(Outcome.PASS, READ, judged_with=("--trust-root", "ab" * 32)),
        {Cause.OPTIONS},
    ),
    "a waiver": (one(Outcome.FAIL, READ), one(Outcome.FAIL, READ, waiver=WAIVER), {Cause.WAIVER}),
    "a waiver that has expired": (
        one(Outcome.FAIL, READ, waiver=WAIVER, judged_with=("--waivers", "w.toml", "--today", "2026-12-31")),
        one(Outcome.FAIL, READ, judged_with=("--waivers", "w.toml", "--today", "2027-01-01")),
        {Cause.WAIVER},
    ),
    "a waiver, and the device": (
        one(Outcome.PASS, READ),
        one(Outcome.FAIL, IDENTITY, on="2", waiver=WAIVER),
        {Cause.WAIVER, Cause.DEVICE},
    ),
    "evidence that can be read now": (one(Outcome.UNKNOWN, DENIED), one(Outcome.PASS, READ, on="2"), {Cause.GAINED}),
    "evidence that cannot be read any more": (one(Outcome.PASS, READ), one(Outcome.UNKNOWN, DENIED, on="2"), {Cause.LOST}),
    "evidence that is not recorded any more": (
        one(Outcome.PASS, READ),
        one(Outcome.UNKNOWN, dataclasses.replace(DENIED, status=Status.UNASKED), on="2"),
        {Cause.LOST},
    ),
    "slower, beyond noise": (zoo(Outcome.PASS, *FAST), zoo(Outcome.FAIL, *SLOW, on="2"), {Cause.BEYOND_NOISE}),
    "slower, within noise": (
        zoo(Outcome.PASS, 400.0, 500.0, 410.0, 490.0, 450.0),
        zoo(Outcome.FAIL, 402.0, 501.0, 412.0, 489.0, 452.0, on="2"),
        {Cause.WITHIN_NOISE},
    ),
    "slower, in too few runs": (zoo(Outcome.PASS, *FAST[:3]), zoo(Outcome.FAIL, *SLOW[:3], on="2"), {Cause.FEW_RUNS}),
    "not measured any more": (zoo(Outcome.PASS, *FAST), zoo(Outcome.UNKNOWN, on="2"), {Cause.LOST}),
    "measured now": (zoo(Outcome.UNKNOWN), zoo(Outcome.PASS, *FAST, on="2"), {Cause.GAINED}),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_of_a_change_is_named(name):
    old, new, expected = CAUSES[name]
    assert causes(old, new) == expected


def test_a_memory_finding_is_not_put_down_to_latencies():
    """The latency moved beyond noise, the memory did not."""
    name = f"zoo-{SELFIE}-memory"

    def measured(outcome, latencies, on):
        found = dataclasses.replace(result(name, finding(f"{name}.baseline@model:{SELFIE}", outcome)), model=SELFIE)
        return report(found, device=record(on), model_runs=tuple(run(SELFIE, bracket_us=each) for each in latencies))

    old, new = measured(Outcome.PASS, FAST, "1"), measured(Outcome.FAIL, SLOW, "2")
    assert causes(old, new) == {Cause.WITHIN_NOISE}
    assert [(each.quantity, each.cause) for each in compare(old, new).measured] == [("latency", Cause.BEYOND_NOISE)]


def test_equal_reports_have_no_difference():
    assert comparison.as_text(compare(sample(), sample())) == "no difference\n"
    assert compare(sample(), sample()).empty


def test_a_figure_that_moves_without_an_outcome_is_no_difference():
    first, second = (report(result("misc-1", finding("misc-1.size@device", Outcome.PASS, observed=size))) for size in ("1 MB", "2 MB"))
    assert compare(first, second).empty


@pytest.mark.parametrize(("tolerance", "told"), [(0.05, True), (0.2, False)])
def test_a_figure_within_the_tolerance_is_left_out(tolerance, told):
    old, new = zoo(Outcome.PASS, *FAST), zoo(Outcome.PASS, *(value * 1.1 for value in FAST), on="2")
    found = compare(old, new, tolerance)
    assert bool(found.measured) is told
    assert found.regression is told
    if told:
        assert "latency: 0.4052 ms, now 0.4457 ms (+10.0%), measurement, beyond noise (5 and 5 processes, rank test p = 0.0" in (
            comparison.as_text(found)
        )
        assert not compare(new, old, tolerance).regression


def test_a_difference_says_what_and_why():
    old = one(Outcome.UNKNOWN, DENIED, observed="cannot be read", reason="Denied.")
    new = one(Outcome.PASS, READ, on="2", observed="domain type DMA", reason="Translates.")
    assert comparison.as_text(compare(old, new)).splitlines() == [
        "verdict: incomplete, now compliant",
        "security-3: unknown, now pass",
        f"  {DOMAIN}: unknown, now pass",
        "    cause: evidence gained",
        "    was: cannot be read. Denied.",
        "    now: domain type DMA. Translates.",
        "    /sys/type: denied, now DMA sha256 abababababab",
    ]


def test_no_longer_cited_is_told_apart_from_gone():
    gone, other = Evidence("/sys/gone", Status.ABSENT), Evidence("/sys/other", Status.OK, None, "1")
    old = one(Outcome.PASS, READ, Evidence("/sys/gone", Status.OK, None, "1"))
    text = comparison.as_text(compare(old, one(Outcome.FAIL, gone, other, on="2")))
    assert "    /sys/type: no longer cited" in text
    assert "    /sys/gone: 1, now gone" in text
    assert "    /sys/other: cited now: 1" in text


def test_the_changed_part_of_a_long_value_is_shown():
    start, end = "libfoo.so 123 bytes, " * 50, ", libbar.so 456 bytes" * 50
    old, new = changed_part(f"{start}total 900{end}", f"{start}total 1000{end}")
    assert "900" in old
    assert "1000" in new
    assert max(len(old), len(new)) < 100


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_changed_parts_differ_where_the_values_do(before, after):
    old, new = changed_part(before, after)
    assert (old != new) is (before != after)


def test_a_waiver_is_a_difference():
    failed = finding(DOMAIN, Outcome.FAIL)
    waiver = dataclasses.replace(WAIVER, expires=datetime.date(2027, 1, 1))
    found = compare(report(result("security-3", failed)), report(result("security-3", dataclasses.replace(failed, waiver=waiver))))
    assert comparison.as_text(found).splitlines()[:4] == [
        "verdict: non-compliant, now compliant",
        "security-3: fail, now fail, waived",
        f"  {DOMAIN}: fail, now fail, waived by A. Reviewer until 2027-01-01: The driver is under review upstream.",
        "    cause: waiver",
    ]
    assert not found.regression


def test_findings_and_requirements_that_come_and_go_are_told():
    old = report(result("misc-1", finding("misc-1.size@device", Outcome.PASS)), requirements_set="old")
    new = report(result("misc-2", finding("misc-2.events@device", Outcome.FAIL, level=Level.SHOULD), level=Level.SHOULD), accelerators=())
    lines = comparison.as_text(compare(old, new)).splitlines()
    assert "requirements set: old, now chromeos-ml-accelerator R113, zoo 0.0.2" in lines
    assert f"accelerators: {NPU} driver npu, now none" in lines
    assert "misc-1: pass, now gone" in lines
    assert "  misc-1.size@device: pass, now gone" in lines
    assert "misc-2: new, unknown (should)" in lines
    assert "  misc-2.events@device: new, fail (should)" in lines


@pytest.mark.parametrize(
    ("before", "after", "level", "worse"),
    [
        (Outcome.PASS, Outcome.FAIL, Level.MUST, True),
        (Outcome.PASS, Outcome.UNKNOWN, Level.MUST, True),
        (Outcome.UNKNOWN, Outcome.FAIL, Level.MUST, True),
        (Outcome.FAIL, Outcome.PASS, Level.MUST, False),
        (Outcome.FAIL, Outcome.UNKNOWN, Level.MUST, False),
        (Outcome.PASS, Outcome.NOT_APPLICABLE, Level.MUST, False),
        (Outcome.PASS, Outcome.FAIL, Level.SHOULD, False),
    ],
)
def test_what_counts_as_a_regression(before, after, level, worse):
    others = finding("security-3.other@device", Outcome.FAIL)  # the verdict stays what it was
    old, new = (report(result("security-3", finding(DOMAIN, outcome, level=level), others)) for outcome in (before, after))
    assert compare(old, new).regression is worse


def test_a_must_clause_that_no_finding_answers_any_more_is_a_regression():
    old, new = report(result("security-3", finding(DOMAIN, Outcome.PASS))), report(result("security-3"))
    assert compare(old, new).regression


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


@settings(max_examples=30)
@given(reports(), reports(), TEXT)
def test_a_comparison_is_safe_in_every_format(old, new, name):
    """The page has the same elements whatever the reports say."""
    old = dataclasses.replace(old, device=dataclasses.replace(old.device, name=name, snapshot_sha256="1"))
    found = compare(old, new)
    assert all(line.isprintable() for line in comparison.as_text(found).splitlines())
    assert json.loads(comparison.as_json(found))["regression"] is found.regression
    page = Cells()
    page.feed(comparison.as_html(found))
    assert page.tags <= {"html", "meta", "title", "style", "main", "h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert compare(old, old).empty


def test_json_and_the_page_name_the_causes():
    old, new, _ = CAUSES["slower, beyond noise"]
    document = json.loads(comparison.as_json(compare(old, new)))
    assert document["schema"] == "crosml-audit/comparison/1"
    assert document["findings"][0]["causes"] == ["measurement, beyond noise"]
    assert document["measurements"][0]["quantity"] == "latency"
    assert "measurement, beyond noise" in comparison.as_html(compare(old, new))


def test_a_report_with_very_many_runs_is_compared():
    old = zoo(Outcome.PASS, *map(float, range(1, 20_001)))
    assert compare(old, dataclasses.replace(old, device=record("2"))).empty


def test_a_comparison_of_very_much_stays_small():
    """10,000 findings whose texts have a megabyte together; and one text of a megabyte."""
    old, new = (
        report(
            result("security-3", *(finding(f"security-3.domain@pci:{n}", outcome, reason="why " * 25) for n in range(10_000))),
            result("misc-1", finding("misc-1.size@device", outcome, reason="x" * 1_000_000, observed=f"{outcome} " * 100_000)),
            device=record(outcome.value[0]),
        )
        for outcome in (Outcome.PASS, Outcome.FAIL)
    )
    found = compare(old, new)
    assert len(json.loads(comparison.as_json(found))["findings"]) == 10_001
    for text in (comparison.as_text(found), comparison.as_html(found)):
        assert len(text) < 2_000_000
        assert "8001 more" in text

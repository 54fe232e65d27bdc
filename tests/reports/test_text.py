"""The text report: what is in it and in which order, at 80 columns, whatever a device is called."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.model import DeviceSummary, Evidence, Level, Outcome, Remedy, Status
from fixtures.hostile import reports
from fixtures.report import CONVOLUTION, NPU, SELFIE, WAIVER, finding, report, result, run, sample
from reports.text import FORMAT, render
from reports.wording import shown

GOLDEN = Path(__file__).parent / "golden" / "report.txt"
SGR = re.compile(r"\x1b\[[0-9;]+m")
DEMONSTRATION = DeviceSummary("demo", "edu", "cd" * 32, "2026-03-01T12:00:00Z", demonstration=True)


def lines(*args, **options):
    return render(*args, **options).splitlines()


def test_sample_is_as_it_was_read_and_approved():
    """Run with CROSML_AUDIT_REGENERATE=1 to write it anew, and read the difference."""
    text = render(sample())
    if os.environ.get("CROSML_AUDIT_REGENERATE"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_what_failed_comes_first_and_the_verdict_last():
    text = render(sample())
    order = (
        "FAILED (2)",
        "ERROR: check crashed",
        "UNKNOWN (7)",
        "RECOMMENDED FIXES",
        "WAIVED (1)",
        "REQUIREMENTS",
        "ZOO 0.0.2",
        "NOTES",
        "Findings  ",
        "To decide",
    )
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_a_failure_is_told_in_full():
    told = render(
        report(result("security-3", finding("security-3.domain@" + NPU, Outcome.FAIL, evidence=(Evidence("/sys/x", Status.DENIED),))))
    )
    for part in ("what security-3.domain observed", "expects", "Why security-3.domain is fail.", "What to do", "vendor", "/sys/x (denied)"):
        assert part in told


def test_the_last_lines_say_what_would_decide_the_unknowns():
    assert (
        " ".join(lines(sample(), verbose=True)[-2:])
        == "To decide the unknowns: as root: 2; with --delegate: 3; with --zoo-manifest: 1; otherwise: 1"
    )
    unknowns = [finding(f"security-1.w{index}@device", Outcome.UNKNOWN, remedy=Remedy.ROOT) for index in range(4)]
    assert lines(report(result("security-1", *unknowns)))[-2] == "To decide the unknowns: as root: 4"
    waived = finding("security-1.w@device", Outcome.UNKNOWN, remedy=Remedy.ROOT, waiver=WAIVER)
    assert lines(report(result("security-1", waived)))[-2] == "No finding is unknown."


def test_a_waived_finding_shows_the_outcome_and_the_waiver():
    text = render(sample())
    waived = text[text.index("WAIVED") : text.index("REQUIREMENTS")]
    assert "fail  functional-1.in-tree@" in waived
    assert "The driver is under review upstream. (A. Reviewer, until 2026-12-31)" in waived
    assert "functional-1.in-tree@" not in text[: text.index("WAIVED")]
    assert "fail, waived    functional-1 " in text


def test_a_should_failure_stands_apart():
    text = render(sample())
    assert "security-3.reserved" not in text[text.index("FAILED") : text.index("RECOMMENDED FIXES")]


def test_unknowns_that_say_the_same_are_told_once():
    assert render(sample()).count("No delegate was given, so nothing was measured.") == 1


def test_a_requirement_that_no_check_answers_is_named():
    assert "No check answered: security-2" in lines(sample())


def test_every_requirement_and_every_zoo_model_has_a_row():
    text = render(sample(), verbose=True)
    rows = text[text.index("REQUIREMENTS") : text.index("NOTES")].splitlines()
    for each in sample().requirements:
        assert any(re.match(rf"{each.outcome.value}.* {re.escape(each.id)}( |$)", row) for row in rows), each.id
    assert f"{SELFIE}    4.26 ms   1.25e-08    88.3 MB     99.1%" in rows
    assert "  stand-in, sha256 ababab…ababab         unknown       pass    unknown" in rows


def test_a_figure_that_one_run_lacks_is_not_shown():
    broken = run(
        SELFIE, status="died", latency_us=None, memory=None, accuracy=({"avg_error": 1.0}, {"avg_error": None}), delegated_macs=None
    )
    (row,) = [line for line in lines(sample(model_runs=(run(SELFIE), broken))) if line.startswith(f"{SELFIE}  ")]
    assert row.split() == [SELFIE, "-", "-", "-", "-"]


def beside(*runs):
    """The line below the rows of a model."""
    told = lines(sample(model_runs=runs))
    return told[told.index(next(line for line in told if line.startswith(f"{SELFIE}  "))) + 2].strip()


def powered(watts):
    return {"power": {"seconds": 1.0, "watts": watts}}


def test_where_the_clocks_disagree_the_auditors_is_shown():
    """A delegate that computes where its process's clock does not look, as in a handler of page faults."""
    told = lines(sample(model_runs=(run(SELFIE, latency_us=160.0, bracket_us=14_750.0),)))
    (row,) = [line for line in told if line.startswith(f"{SELFIE}  ")]
    assert row.split()[1:3] == ["14.8", "ms"]
    assert "latency by the auditor's clock; 0.16 ms by the process's own" in " ".join(" ".join(told).split())
    agreed = sample(model_runs=(run(SELFIE, latency_us=4000.0, bracket_us=4100.0),))
    assert not any("auditor's clock;" in line for line in lines(agreed))


def test_load_and_first_inference_and_power_are_beside_the_latency():
    first, second = run(SELFIE, conditions=powered({"package-0": 10.0})), run(SELFIE, conditions=powered({"package-0": 12.0}))
    assert beside(first, second) == "2 processes, load 51 ms, first inference 6 ms, package-0 11 W"
    assert beside(run(SELFIE, init_us=None, first_us=None)) == "1 process"


@pytest.mark.parametrize(
    "power",
    [None, 7, "x", [], {}, {"watts": None}, {"watts": [1]}, {"watts": {"s": "high"}}, {"watts": {"s": None}}, {"watts": {"s": 1e300}}],
)
def test_power_that_is_none_is_not_shown(power):
    assert beside(run(SELFIE, conditions={"power": power})).endswith("first inference 6 ms")


def test_sensors_are_bounded_and_safe_to_show():
    text = render(sample(model_runs=(run(SELFIE, conditions=powered({f"\x1b[2J{number}" + "n" * 500: 1.5 for number in range(50)})),)))
    assert "46 more sensors" in " ".join(text.split())
    assert "\x1b" not in text


def test_a_demonstration_says_so_at_the_top_and_beside_the_zoo():
    text = lines(sample(device=DEMONSTRATION))
    assert "DEMONSTRATION" in text[1]
    assert "DEMONSTRATION" in text[text.index("ZOO 0.0.2") + 1]
    assert "Verdict   NON-COMPLIANT (a demonstration)" in text
    assert "demonstration" not in render(sample()).lower()


def test_no_accelerator_says_where_it_looked_and_what_else_can_be_done():
    text = " ".join(render(sample(accelerators=())).split())
    assert "none was found; looked in /sys/class/accel, /sys/bus/pci" in text
    for option in ("--demo", "--root", "--host"):
        assert option in text
    assert "none was found" not in render(sample())


def test_evidence_beyond_a_few_is_counted():
    many = tuple(Evidence(f"/lib/{number}.so", Status.OK) for number in range(20))
    text = render(report(result("misc-1", finding("misc-1.size@device", Outcome.FAIL, evidence=many))))
    assert "/lib/7.so" in text
    assert "/lib/8.so" not in text
    assert "and 12 more, which the JSON report lists" in text


def test_an_empty_report_is_a_report():
    assert "Verdict   INCOMPLETE" in render(report())


def test_colour_changes_nothing_but_colour():
    coloured = render(sample(), colour=True)
    assert "\x1b[1;31m" in coloured
    assert SGR.sub("", coloured) == render(sample())


def names_a_finding(line, report):
    """Whether a line has a finding's or a requirement's id whole, and nothing else that could have been wrapped."""
    shown_ = shown(report)
    ids = {name for each in shown_.requirements for name in (each.id, *(finding.id for finding in each.findings))}
    return any(line.endswith((name, f"{name} (should)")) and len(line) - len(name) < 30 for name in ids)


@pytest.mark.parametrize("width", [1, 60, 80, 200])
def test_lines_keep_the_width(width):
    assert all(len(line) <= max(width, 60) or names_a_finding(line, sample()) for line in lines(sample(), width=width))


@given(reports(), st.booleans(), st.integers(60, 100))
def test_no_device_drives_the_terminal(report, colour, width):
    text = SGR.sub("", render(report, colour=colour, width=width)) if colour else render(report, width=width)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert all(len(line) <= width or names_a_finding(line, report) for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80])
def test_verbose_names_every_finding_on_one_line(width):
    text = render(sample(), verbose=True, width=width).splitlines()
    for result_ in sample().requirements:
        for each in result_.findings:
            assert any(each.id in line.split() for line in text), each.id


def test_many_unknowns_of_one_cause_are_one_line_and_verbose_names_them():
    same = {"observed": "nothing was run", "reason": "No delegate.", "remediation": "Name it.", "remedy": Remedy.DELEGATE}
    names = [f"zoo-{model}-{quantity}" for model in (SELFIE, CONVOLUTION) for quantity in ("latency", "accuracy", "memory")]
    zoo = [result(name, finding(f"{name}.baseline@model", Outcome.UNKNOWN, **same)) for name in names]
    other = result("security-1", finding("security-1.confined-run@device", Outcome.UNKNOWN, **same))
    told = lines(report(*zoo, other))
    unknown = told[told.index("UNKNOWN (7), by what would decide them") : told.index("REQUIREMENTS")]
    assert unknown[3:5] == ["  zoo (6 findings)", "  security-1.confined-run@device"]
    assert "unknown         zoo (6)          Latency, accuracy and memory of the zoo's" in told
    assert all(f"  {name}.baseline@model" in lines(report(*zoo, other), verbose=True) for name in names)


def test_evidence_of_one_cause_is_that_of_all_its_findings():
    same = {"observed": "unreadable", "reason": "R.", "remediation": "Fix.", "remedy": Remedy.EVIDENCE}
    two = [
        finding(f"misc-1.closure@file:/{name}", Outcome.UNKNOWN, evidence=(Evidence(f"/lib/{name}", Status.DENIED),), **same)
        for name in "ab"
    ]
    text = render(report(result("misc-1", *two)))
    assert "/lib/a (denied)" in text
    assert "/lib/b (denied)" in text


def test_only_verbose_shows_what_passes_with_its_evidence():
    passing = finding("security-3.domain@" + NPU, Outcome.PASS, evidence=(Evidence("/sys/domain", Status.OK, "ab" * 32, "DMA"),))
    told = report(result("security-3", passing))
    assert "/sys/domain" not in render(told)
    assert '/sys/domain "DMA" sha256 abababab' in render(told, verbose=True)
    assert "--verbose" in lines(told)[-1]
    assert "--verbose" not in render(told, verbose=True)


def test_without_an_accelerator_the_report_is_a_screen_and_says_what_to_do():
    advice = "Load the accelerator's driver and audit again."
    unknowns = [
        result(f"security-{n}", finding(f"security-{n}.w@device", Outcome.UNKNOWN, remedy=Remedy.DRIVER, remediation=advice))
        for n in range(30)
    ]
    advised = result("misc-2", finding("misc-2.w@device", Outcome.FAIL, level=Level.SHOULD), level=Level.SHOULD)
    told = lines(report(*unknowns, advised, accelerators=()))
    assert len(told) <= 25
    assert f"1. {advice}" in told
    assert "none was found; looked in /sys/class/accel" in " ".join(told)
    assert len(lines(report(*unknowns, advised, accelerators=()), verbose=True)) > 100


def test_without_an_accelerator_what_fails_and_what_may_be_one_are_still_told():
    failing = finding("security-2.loading@device", Outcome.FAIL)
    assert "FAILED (1)" in render(report(result("security-2", failing), accelerators=()))
    advice = "Say what it is: `--accelerator pci:0000:01:00.0`."
    stranger = finding("security-3.domain@pci:0000:01:00.0", Outcome.UNKNOWN, remedy=Remedy.WHAT_IT_IS, remediation=advice)
    text = render(report(result("security-3", stranger), accelerators=()))
    assert "  security-3.domain@pci:0000:01:00.0" in text.splitlines()
    assert f"1. {advice}" in text


def test_what_only_leaves_out_is_one_line():
    kept = result("security-3", finding("security-3.domain@" + NPU, Outcome.PASS))
    rest = [replace(result(f"zoo-{n}-latency"), selected=False) for n in range(15)]
    told = lines(report(kept, *rest, partial=True, selection=("security-3",)))
    assert "Not selected 15 of 16 requirements, by --only" in told
    assert not any("zoo-" in line for line in told)
    assert "Verdict      COMPLIANT (partial)" in told


def test_format_says_what_it_is():
    assert (FORMAT.name, FORMAT.suffix, FORMAT.render) == ("text", ".txt", render)


def test_the_first_screen_tallies_the_clauses_and_says_whose_move_it_is():
    head = render(sample()).partition("FAILED (")[0]
    tally = next(line for line in head.splitlines() if line.startswith("Clauses"))
    must = [each for each in sample().requirements if each.level is Level.MUST]
    waived = [each for each in must if each.standing is not each.outcome]
    assert sum(map(int, re.findall(r"(\d+) (?:passed|failed|open|not applicable|waived)", " ".join(head.split())))) >= len(must)
    assert all(each.id in head for each in waived)
    assert tally
    assert "Open, by owner" in head
    first = next(line for line in head.splitlines() if line.startswith("1. "))
    failing = [finding for each in must for finding in each.findings if finding.outcome is Outcome.FAIL and finding.waiver is None]
    assert any(first.removeprefix("1. ").startswith(finding.remediation[:20]) for finding in failing)


def test_a_compliant_report_asks_for_nothing():
    head = render(report(result("security-3", finding("security-3.domain@" + NPU, Outcome.PASS))))
    assert "1 passed" in head
    assert "Open, by owner" not in head

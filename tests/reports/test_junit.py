"""The JUnit report: red exactly where the verdict is not `compliant`, and well-formed whatever a device is called."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import junitparser
import pytest
from hypothesis import given

from auditor.model import DeviceSummary, Level, Outcome, Verdict
from fixtures.hostile import reports
from fixtures.report import WAIVER, finding, report, result, sample
from reports.junit import FORMAT, render


def cases(document):
    return {case.name: case for suite in junitparser.JUnitXml.fromstring(document.encode()) for case in suite}


def ending(outcome, *, level=Level.MUST, requirement=Level.MUST, waiver=None):
    """The kind and type of the one element that tells how the case of a finding ended; None where it passed."""
    found = finding("security-3.domain@device", outcome, level=level, waiver=waiver)
    (end,) = [
        (type(each).__name__.lower(), each.type)
        for each in cases(render(report(result("security-3", found, level=requirement))))["security-3.domain@device"].result
    ] or [None]
    return end


def test_every_outcome_ends_its_case():
    assert ending(Outcome.PASS) is None
    assert ending(Outcome.FAIL) == ("failure", "fail")
    assert ending(Outcome.ERROR) == ("error", "error")
    assert ending(Outcome.UNKNOWN) == ("error", "unknown")
    assert ending(Outcome.NOT_APPLICABLE) == ("skipped", "not-applicable")


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN])
def test_what_should_be_is_not_red(outcome):
    assert ending(outcome, level=Level.SHOULD) == ("skipped", f"should-{outcome.value}")
    assert ending(outcome, requirement=Level.SHOULD) == ("skipped", f"should-{outcome.value}")


def test_a_waived_finding_is_skipped_with_the_reason():
    assert ending(Outcome.FAIL, waiver=WAIVER) == ("skipped", "waived")
    (skipped,) = cases(render(sample()))["functional-1.in-tree@pci:0000:00:05.0"].result
    assert skipped.message == "fail, waived: The driver is under review upstream."


def test_a_failure_tells_its_story():
    (failure,) = cases(render(sample()))["security-3.domain@pci:0000:00:05.0"].result
    assert "No IOMMU stands between" in failure.message
    assert 'evidence  /sys/kernel/iommu_groups/7/type "identity\\n"' in failure.text


def test_a_requirement_without_answers_is_an_error():
    (error,) = cases(render(sample()))["security-2"].result
    assert error.type == "unknown"


def test_a_verdict_that_nothing_explains_is_an_error():
    nothing = report(result("security-3", finding("security-3.domain@device", Outcome.NOT_APPLICABLE)))
    assert nothing.verdict is Verdict.INCOMPLETE
    for document in (render(nothing), render(report())):
        (error,) = cases(document)["verdict"].result
        assert "incomplete" in error.message


def test_suites_are_the_requirements_and_counts_are_right():
    document = render(sample())
    parsed = junitparser.JUnitXml.fromstring(document.encode())
    assert [suite.name for suite in parsed] == [each.id for each in sample().requirements]
    assert (parsed.tests, parsed.failures, parsed.errors, parsed.skipped) == (16, 2, 8, 4)
    written = [(suite.tests, suite.failures, suite.errors, suite.skipped) for suite in parsed]
    for suite in parsed:
        suite.update_statistics()
    assert written == [(suite.tests, suite.failures, suite.errors, suite.skipped) for suite in parsed]


@given(reports())
def test_red_is_exactly_what_keeps_the_verdict_from_compliant(report):
    document = render(report)
    root = ET.fromstring(document)
    red = root.findall(".//failure") + root.findall(".//error")
    assert bool(red) == (report.verdict is not Verdict.COMPLIANT)
    assert any(each.tag == "failure" for each in red) == (report.verdict is Verdict.NON_COMPLIANT)
    assert len(list(junitparser.JUnitXml.fromstring(document.encode()))) >= len(report.requirements)
    assert all(char.isprintable() or char == "\n" for char in document)
    for suite in root:
        names = [case.get("name") for case in suite.findall("testcase")]
        assert names == sorted(names)


def test_a_demonstration_is_named():
    demonstration = DeviceSummary("demo", "edu", "", "", demonstration=True)
    assert 'name="crosml-audit: edu (a demonstration)"' in render(sample(device=demonstration))
    assert "demonstration" not in render(sample())


def test_format_says_what_it_is():
    assert (FORMAT.name, FORMAT.suffix, FORMAT.render) == ("junit", ".xml", render)

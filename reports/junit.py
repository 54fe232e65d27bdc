"""The JUnit report, for continuous integration: a suite for each requirement, a case for each finding.

What is red in it is exactly what keeps the verdict from `compliant`, so nothing that was not shown can pass for success:

| finding | case |
|---|---|
| `fail` | `failure` |
| `error` | `error`, type `error` |
| `unknown` | `error`, type `unknown` |
| any of these, waived | `skipped`, type `waived`, with the waiver's reason |
| any of these, where the check or the requirement is a `should` | `skipped`, type `should-fail` … |
| `not-applicable` | `skipped`, type `not-applicable` |
| `pass` | passed |

What an `unknown` counts as is for a lab to choose (`--unknown-as`): `error`; `failure`; or `once`, where each is `skipped`, type
`unknown`, and one `error` in a suite of its own says how many there are.

A `must` requirement that no `must` finding decides, and a report that is not compliant although no case is red, have an `error` of
type `unknown` of their own.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from auditor.model import Format, Level, Outcome, Report, Verdict
from reports.machine import bounded
from reports.wording import binding, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import Finding, RequirementResult

_TOTALS = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def render(report: Report, *, unknown: str = "error") -> str:
    """The report as a JUnit XML document. Suites are in the order of the requirement set, cases sorted by their names.

    `unknown` is what an unknown counts as: `error`, `failure` or `once`.
    """
    tag = "skipped" if unknown == "once" else unknown
    report = bounded(report)
    demonstration = " (a demonstration)" if report.device.demonstration else ""
    root = ET.Element("testsuites", name=f"{report.tool.name}: {report.device.name}{demonstration}")
    root.extend(_suite(report, result, tag) for result in report.requirements)
    left = sum(case.get("type") == Outcome.UNKNOWN.value for case in root.iter("skipped"))
    if left:
        suite = ET.SubElement(root, "testsuite", name="unknown")
        suite.append(_undecided("unknown", f"{left} findings are unknown; the verdict is {report.verdict.value}.", "error"))
    if report.verdict is not Verdict.COMPLIANT and not root.findall(".//failure") and not root.findall(".//error"):
        suite = ET.SubElement(root, "testsuite", name="verdict")
        suite.append(_undecided("verdict", f"The verdict is {report.verdict.value}, and nothing was found that decides it.", "error"))
    for suite in root:
        _count(suite)
    _count(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(report: Report, result: RequirementResult, unknown: str) -> ET.Element:
    suite = ET.Element("testsuite", name=result.id)
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report, result):
        ET.SubElement(properties, "property", name=name, value=value)
    if result.level is Level.MUST and not any(finding.level is Level.MUST for finding in result.findings):
        suite.append(_undecided(result.id, "No check answered, so the requirement is not decided.", unknown))
    suite.extend(_case(result, finding, unknown) for finding in sorted(result.findings, key=lambda finding: finding.id))
    return suite


def _properties(report: Report, result: RequirementResult) -> Iterator[tuple[str, str]]:
    yield "title", result.title
    yield "level", result.level.value
    yield "outcome", result.outcome.value
    yield "waived", str(result.waived).lower()
    yield "verdict", report.verdict.value
    yield "requirements_set", report.requirements_set
    yield "device", f"{report.device.name} ({report.device.source})"
    yield "snapshot_sha256", report.device.snapshot_sha256
    yield "tool", f"{report.tool.name} {report.tool.version}"


def _case(result: RequirementResult, finding: Finding, unknown: str) -> ET.Element:
    case = ET.Element("testcase", classname=finding.check, name=finding.id)
    story = "\n".join(f"{label:<10}{line}".rstrip() for label, line in told(finding))
    kind = _kind(result, finding, unknown)
    if kind is None:
        ET.SubElement(case, "system-out").text = story
        return case
    tag, type_ = kind
    message = f"{finding.reason} Observed: {finding.observed}"
    if finding.waiver:
        message = f"{finding.outcome.value}, waived: {finding.waiver.reason}"
    ET.SubElement(case, tag, type=type_, message=message).text = story
    return case


def _kind(result: RequirementResult, finding: Finding, unknown: str) -> tuple[str, str] | None:
    """The element that tells how a case ended, and its type; None where it passed."""
    outcome = finding.outcome
    if outcome is Outcome.PASS:
        return None
    if outcome is Outcome.NOT_APPLICABLE:
        return "skipped", outcome.value
    if finding.waiver:
        return "skipped", "waived"
    if not binding(result, finding):
        return "skipped", f"should-{outcome.value}"
    return {Outcome.FAIL: "failure", Outcome.UNKNOWN: unknown}.get(outcome, "error"), outcome.value


def _undecided(name: str, message: str, tag: str) -> ET.Element:
    case = ET.Element("testcase", classname=name, name=name)
    ET.SubElement(case, tag, type=Outcome.UNKNOWN.value, message=message)
    return case


def _count(element: ET.Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    for attribute, tag in _TOTALS.items():
        element.set(attribute, str(len(element.findall(f".//{tag}"))))


FORMAT = Format("junit", "application/xml", ".xml", render, takes=("unknown",))

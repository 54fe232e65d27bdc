"""JSON reports that were written earlier, read back and seen to add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import engine, files
from auditor.codec import decode_json
from auditor.errors import AuditError
from auditor.model import REPORT_SCHEMA, Level, Outcome, Report, Verdict, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import RequirementResult

SIZE_LIMIT = 64 << 20
"""Bytes of a report file."""


@dataclass(frozen=True, slots=True)
class _Header:
    schema: str


def load_report(path: str) -> Report:
    """The report in a JSON file. Raises AuditError with one line where it cannot be read, is no report, or contradicts itself."""
    return read_report(files.read(path, SIZE_LIMIT, path, AuditError), path)


def read_report(data: bytes, path: str) -> Report:
    """The report in a JSON document that came from `path`. Raises AuditError with one line."""
    schema = decode_json(data, _Header, path).schema
    if schema != REPORT_SCHEMA:
        raise AuditError(visible(f"{path}: schema: expected {REPORT_SCHEMA}, got {schema[:80]!r}"))
    report = _current(decode_json(data, Report, path))
    for contradiction in _contradictions(report):
        raise AuditError(visible(f"{path}: {contradiction}"))
    return report


def _current(report: Report) -> Report:
    """The report with what its waivers cover told apart: earlier versions gave a requirement that is waived the outcome `pass`."""
    results = tuple(map(_apart, report.requirements))
    return replace(report, requirements=results)


def _apart(result: RequirementResult) -> RequirementResult:
    found, waived = engine.outcome(result.findings)
    earlier = Outcome.PASS if waived else found
    covered = any(finding.waiver for finding in result.findings if finding.level is Level.MUST)
    return replace(result, outcome=found, waived=waived) if covered and (result.outcome, result.waived) == (earlier, True) else result


def _contradictions(report: Report) -> Iterator[str]:
    """Where a report does not add up: it was changed after it was written."""
    names = Counter(finding.id for result in report.requirements for finding in result.findings)
    yield from (f"requirements: {name} is there {count} times, expected once" for name, count in names.items() if count > 1)
    for number, result in enumerate(report.requirements):
        for finding in result.findings:
            if finding.waiver and finding.outcome not in {Outcome.FAIL, Outcome.UNKNOWN}:
                yield f"requirements[{number}]: {finding.id} is {finding.outcome.value} and waived; only fail and unknown can be"
        outcome, waived = engine.outcome(result.findings, partial=report.partial)
        if result.outcome is not outcome:
            yield f"requirements[{number}].outcome: expected {outcome.value}, which its findings add up to, got {result.outcome.value}"
        if result.waived is not waived:
            yield f"requirements[{number}].waived: expected {str(waived).lower()}, which its findings add up to"
    verdict, counts = engine.verdict(report.requirements, partial=report.partial), engine.counts(report.requirements)
    if report.verdict is not verdict:
        yield f"verdict: expected {verdict.value}, which the requirements add up to, got {report.verdict.value}"
    if report.incomplete and report.verdict is not Verdict.INCOMPLETE:
        yield f"incomplete: expected null beside the verdict {report.verdict.value}"
    if report.counts != counts:
        yield "counts: expected those of the findings"

"""CSV (RFC 4180), for a spreadsheet: a row for each finding, and one for a requirement that has none.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, whatever the quotes say: such a cell gets a `'` before it.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from auditor.model import Format
from reports.machine import bounded, told_outcome

if TYPE_CHECKING:
    from auditor.model import Finding, Report, RequirementResult

HEADER = (
    "verdict",
    "device",
    "requirements_set",
    "requirement",
    "requirement_title",
    "requirement_level",
    "requirement_outcome",
    "finding",
    "check",
    "subject",
    "level",
    "outcome",
    "waived",
    "waiver_reason",
    "waiver_author",
    "waiver_expires",
    "waiver_ticket",
    "owner",
    "observed",
    "expected",
    "reason",
    "remediation",
    "evidence",
    "claimed",
)

_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
"""What begins a formula, and the full-width forms that some spreadsheets take for it."""


def render(report: Report) -> str:
    """The report as CSV with a header, every cell quoted."""
    report = bounded(report)
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(HEADER)
    about = [report.verdict.value, f"{report.device.name} ({report.device.source})", report.requirements_set]
    for result in report.requirements:
        for finding in result.findings or (None,):
            writer.writerow([cell(each) for each in (*about, *_requirement(result), *_finding(finding))])
    return out.getvalue()


def cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip().startswith(tuple(_FORMULA)) else text


def _requirement(result: RequirementResult) -> tuple[str, ...]:
    return result.id, result.title, result.level.value, told_outcome(result)


def _finding(finding: Finding | None) -> tuple[str, ...]:
    if finding is None:
        return ("",) * (len(HEADER) - 7)
    waiver = finding.waiver
    return (
        finding.id,
        finding.check,
        finding.subject,
        finding.level.value,
        finding.outcome.value,
        "yes" if waiver else "no",
        *((waiver.reason, waiver.author, waiver.expires.isoformat(), waiver.ticket) if waiver else ("",) * 4),
        finding.owner.value,
        finding.observed,
        finding.expected,
        finding.reason,
        finding.remediation,
        "; ".join(f"{each.path} ({each.status.value})" for each in finding.evidence),
        "; ".join(claim.sentence for claim in finding.claims),
    )


FORMAT = Format("csv", "text/csv; charset=utf-8", ".csv", render)

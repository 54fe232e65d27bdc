"""Markdown (CommonMark with GitHub's tables), for a merge request or a job summary: what failed, what is open, what is waived.

A merge request takes text for markup, mentions, references and links. All text of the report is escaped: punctuation by a backslash,
`<`, `>` and `&` as entities, and a zero-width space parts what would notify somebody, refer to an issue or become a link.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from auditor.model import Format, Level, Outcome, Verdict
from reports.machine import Standing, bounded, claimed, findings, standing, told_outcome, undecided, waived
from reports.wording import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.model import Finding, Report, RequirementResult

ROWS = 40
"""Rows of one table; what is left out is counted."""
CELL = 300
"""Characters of one cell. A comment may have 65 536 on GitHub, so three tables of findings fit."""

_ESCAPES = str.maketrans({**{char: f"\\{char}" for char in string.punctuation}, "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_REFERENCE = re.compile(r'(@(?=\w)|[#!~%$&](?=[\w"])|:(?=//)|[wW]{3}(?=\.))')
_BREAK = "\u200b"
_SIGNS = {Verdict.COMPLIANT: "✅", Verdict.NON_COMPLIANT: "❌", Verdict.INCOMPLETE: "❔"}
_TABLES = (
    ("Failed", (Standing.FAILED, Standing.BROKEN)),
    ("Open", (Standing.OPEN,)),
    ("Waived", (Standing.WAIVED,)),
    ("Recommended fixes (not part of the verdict)", (Standing.ADVISED,)),
)


def render(report: Report) -> str:
    """The report as one Markdown document."""
    return "\n".join(_lines(bounded(report))) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, and that no site takes for a mention, a reference or a link."""
    return _REFERENCE.sub(rf"\1{_BREAK}", " ".join(text.split())).translate(_ESCAPES)


def code(text: str) -> str:
    """Text in a code span, in which nothing is looked for; `text` is one line."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padded = f" {text} " if not text.strip() or text[0] in "` " or text[-1] in "` " else text
    return f"{fence}{padded}{fence}".replace("|", "\\|")


def _lines(report: Report) -> Iterator[str]:
    demonstration = " (a demonstration)" if report.device.demonstration else ""
    yield f"## {_SIGNS[report.verdict]} {report.verdict.value}{demonstration}: {escaped(cut(report.device.name, CELL))}"
    yield ""
    counts = ", ".join(f"{report.counts.get(outcome.value, 0)} {outcome.value}" for outcome in Outcome)
    yield f"Findings: {counts}; {report.counts.get('waived', 0)} waived."
    yield f"Judged by {code(report.requirements_set)} with {code(f'{report.tool.name} {report.tool.version}')}."
    yield f"Record sha256 {code(report.device.snapshot_sha256)}."
    yield ""
    yield from _table(("requirement", "level", "outcome", "title"), [_row(result) for result in report.requirements])
    for title, wanted in _TABLES:
        found = [_told(result, finding) for result, finding in findings(report) if standing(result, finding) in wanted]
        found += [_silent(result) for result in report.requirements if undecided(result) and Standing.OPEN in wanted]
        if found:
            yield from ("", f"### {title} ({len(found)})", "")
            yield from _table(("finding", "observed", "expected", "fix", "owner"), found)
    if report.notes:
        yield from ("", "### Notes", "", *(f"* {escaped(cut(note, CELL))}" for note in report.notes[:ROWS]))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows[:ROWS]:
        yield f"| {' | '.join(row)} |"
    if len(rows) > ROWS:
        yield ""
        yield f"{len(rows) - ROWS} more, which the JSON report lists."


def _row(result: RequirementResult) -> tuple[str, ...]:
    return code(cut(result.id, CELL)), result.level.value, told_outcome(result), _prose(result.title)


def _told(result: RequirementResult, finding: Finding) -> tuple[str, ...]:
    level = "" if finding.level is Level.MUST and result.level is Level.MUST else ", should"
    name = f"{finding.outcome.value}{level}: {code(cut(finding.id, CELL))}"
    fix = f"waived: {waived(finding)}" if finding.waiver else finding.remediation
    return name, _prose(finding.observed), _prose(finding.expected), _prose(fix) + _prose(claimed(finding)), finding.owner.value


def _silent(result: RequirementResult) -> tuple[str, ...]:
    return f"unknown: {code(cut(result.id, CELL))}", "no check answered", "", "", ""


def _prose(text: str) -> str:
    return escaped(cut(text, CELL))


FORMAT = Format("markdown", "text/markdown; charset=utf-8", ".md", render)

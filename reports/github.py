"""GitHub's workflow commands, which a job's log turns into annotations: `::error`, `::warning` and `::notice` lines.

An error is what failed or broke, a warning what is open, a notice a recommendation. GitHub shows ten annotations of each kind a step; the
rest stay lines of the log. The last line is the verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model import Format, Verdict
from reports.machine import Standing, bounded, findings, said, standing, undecided

if TYPE_CHECKING:
    from auditor.model import Report

_COMMANDS = {
    Standing.FAILED: "error",
    Standing.BROKEN: "error",
    Standing.OPEN: "warning",
    Standing.ADVISED: "notice",
}
_DATA = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = _DATA | str.maketrans({":": "%3A", ",": "%2C"})


def render(report: Report) -> str:
    """The report as lines of a job's log; failures first."""
    report = bounded(report)
    found = [
        (_COMMANDS[state], finding.id, said(finding))
        for result, finding in findings(report)
        if (state := standing(result, finding)) in _COMMANDS
    ]
    silent = "No check answered, so the requirement is not decided."
    found += [("warning", result.id, silent) for result in report.requirements if undecided(result)]
    order = ("error", "warning", "notice")
    lines = [command(name, title, message) for name, title, message in sorted(found, key=lambda each: order.index(each[0]))]
    demonstration = " (a demonstration)" if report.device.demonstration else ""
    last = "notice" if report.verdict is Verdict.COMPLIANT else "error"
    return "\n".join([*lines, command(last, "crosml-audit", f"{report.verdict.value}{demonstration}")]) + "\n"


def command(name: str, title: str, message: str) -> str:
    """One workflow command; `title` and `message` cannot end it or start another."""
    return f"::{name} title={title.translate(_PROPERTY)}::{message.translate(_DATA)}"


FORMAT = Format("github", "text/plain; charset=utf-8", ".github.txt", render)

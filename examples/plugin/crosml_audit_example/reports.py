"""One line for a dashboard: the verdict, and how many findings have each outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model import Format, visible

if TYPE_CHECKING:
    from auditor.model import Report


def render(report: Report) -> str:
    """The line. What a device says of itself may be hostile: `visible` leaves no control character in it."""
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items() if count)
    verdict = f"partial, {report.verdict.value}" if report.partial else report.verdict.value
    return visible(f"{verdict}: {counts} ({report.requirements_set})") + "\n"


FORMAT = Format("line", "text/plain", ".line.txt", render)

"""GitLab's Code Quality report (a subset of Code Climate's), which a merge request shows as annotations.

What passed, does not apply or is waived is left out: the widget shows every entry as a problem. Severity is `critical` for a `must`
requirement that failed, `major` where its check broke or nothing decides it, and `minor` for a recommendation.
"""

from __future__ import annotations

from typing import Any

from auditor.model import Finding, Format, Report, RequirementResult
from reports.machine import Standing, bounded, document, findings, fingerprint, location, said, standing

_SEVERITIES = {Standing.FAILED: "critical", Standing.BROKEN: "major", Standing.OPEN: "major", Standing.ADVISED: "minor"}


def render(report: Report) -> str:
    """The report as a list of issues; the path of one is where its finding was read on the device."""
    return document([
        _issue(result, finding) for result, finding in findings(bounded(report)) if standing(result, finding) in _SEVERITIES
    ])  # fmt: skip


def _issue(result: RequirementResult, finding: Finding) -> dict[str, Any]:
    return {
        "type": "issue",
        "check_name": finding.check,
        "description": f"{finding.outcome.value}: {said(finding)}",
        "categories": ["Compatibility"],
        "severity": _SEVERITIES[standing(result, finding)],
        "fingerprint": fingerprint(finding),
        "location": {"path": location(finding.evidence[0].path if finding.evidence else finding.subject), "lines": {"begin": 1}},
    }


FORMAT = Format("codequality", "application/json", ".codequality.json", render)

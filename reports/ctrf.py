"""CTRF, the Common Test Report Format (ctrf.io, schema 0.0): a test for each finding.

| finding | `status` | `rawStatus` |
|---|---|---|
| `pass` | `passed` | the outcome |
| `fail` or `error` of a `must` requirement and check | `failed` | |
| `unknown` of those, and a requirement that nothing decides | `other` | |
| any of these, waived, or of a `should` requirement or check | `skipped` | with `, waived` or `, should` |
| `not-applicable` | `skipped` | |

The exit code, and `extra.verdict`, say what the audit came to; a reader that counts only `failed` must not take `other` for success.
"""

from __future__ import annotations

from typing import Any

from auditor.model import Finding, Format, Report, RequirementResult
from reports.machine import Standing, bounded, document, findings, identifier, moment, said, standing, undecided, waived

_STATUS = {
    Standing.PASSED: "passed",
    Standing.FAILED: "failed",
    Standing.BROKEN: "failed",
    Standing.OPEN: "other",
    Standing.WAIVED: "skipped",
    Standing.ADVISED: "skipped",
    Standing.NOT_APPLICABLE: "skipped",
}
_REMARK = {Standing.WAIVED: ", waived", Standing.ADVISED: ", should"}


def render(report: Report) -> str:
    """The report as one CTRF document."""
    report = bounded(report)
    tests = [_test(result, finding) for result, finding in findings(report)]
    tests += [_undecided(result) for result in report.requirements if undecided(result)]
    when = int(moment(report).timestamp() * 1000)
    counted = {status: sum(test["status"] == status for test in tests) for status in ("passed", "failed", "skipped", "pending", "other")}
    return document({
        "reportFormat": "CTRF",
        "specVersion": "0.0.0",
        "reportId": identifier(report, "ctrf"),
        "generatedBy": f"{report.tool.name} {report.tool.version}",
        "results": {
            "tool": {"name": report.tool.name or "crosml-audit", "version": report.tool.version},
            "summary": {"tests": len(tests), **counted, "suites": len(report.requirements), "start": when, "stop": when},
            "tests": tests,
            "environment": {"osRelease": report.device.kernel or "", "testEnvironment": f"{report.device.name} ({report.device.source})"},
        },
        "extra": {
            "verdict": report.verdict.value,
            "counts": dict(report.counts),
            "requirementsSet": report.requirements_set,
            "snapshotSha256": report.device.snapshot_sha256,
            "demonstration": report.device.demonstration,
            "notes": list(report.notes),
        },
    })  # fmt: skip


def _test(result: RequirementResult, finding: Finding) -> dict[str, Any]:
    state = standing(result, finding)
    return {
        "name": finding.id or "finding",
        "status": _STATUS[state],
        "rawStatus": finding.outcome.value + _REMARK.get(state, ""),
        "duration": 0,
        "suite": [result.id],
        "message": f"waived: {waived(finding)}; {said(finding)}" if finding.waiver else said(finding),
        "tags": [result.level.value, finding.level.value, finding.owner.value],
        "extra": {
            "requirement": result.title,
            "observed": finding.observed,
            "expected": finding.expected,
            "remediation": finding.remediation,
            "owner": finding.owner.value,
            "evidence": [{"path": each.path, "status": each.status.value, "sha256": each.sha256} for each in finding.evidence],
        },
    }


def _undecided(result: RequirementResult) -> dict[str, Any]:
    message = "No check answered, so the requirement is not decided."
    return {"name": result.id or "requirement", "status": "other", "rawStatus": "unknown", "duration": 0, "message": message}


FORMAT = Format("ctrf", "application/json", ".ctrf.json", render)

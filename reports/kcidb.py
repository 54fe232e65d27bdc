"""KCIDB 5.3 (the Linux kernel CI's report schema): a test for each finding, and for each measured run of a model.

| finding | `status` |
|---|---|
| `pass` | `PASS` |
| `fail` | `FAIL` |
| `unknown` | `MISS`: nobody knows whether the device or the evidence is at fault |
| `error` | `ERROR` |
| `not-applicable` | `SKIP` |
| a run of a model that ended well | `DONE`, with its mean latency by the auditor's clock as the number |

A waiver does not change a status; it is in `misc`. The origin is `crosml_audit`; a lab that submits under its own name replaces it.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from auditor.model import Finding, Format, ModelRun, Outcome, Report, RequirementResult
from reports.machine import bounded, document, findings, identifier, moment, said, waived

ORIGIN = "crosml_audit"

_STATUS = {
    Outcome.PASS: "PASS",
    Outcome.FAIL: "FAIL",
    Outcome.UNKNOWN: "MISS",
    Outcome.ERROR: "ERROR",
    Outcome.NOT_APPLICABLE: "SKIP",
}


def render(report: Report) -> str:
    """The report as one KCIDB document: a checkout and a build that stand for the record, and the tests of it."""
    report = bounded(report)
    record = f"{ORIGIN}:{identifier(report, 'record')}"
    when = moment(report).isoformat()
    about: dict[str, Any] = {"origin": ORIGIN, "start_time": when}
    tests = [_test(result, finding) for result, finding in findings(report)]
    tests += [_run(number, run) for number, run in enumerate(report.model_runs)]
    comment = f"{report.tool.name} {report.tool.version}, {report.requirements_set}: {report.verdict.value}"
    return document({
        "version": {"major": 5, "minor": 3},
        "checkouts": [{"id": record, **about, "comment": comment, "misc": {"snapshot_sha256": report.device.snapshot_sha256}}],
        "builds": [{"id": record, "checkout_id": record, **about, "comment": f"kernel {report.device.kernel or 'unknown'}"}],
        "tests": [
            {"id": f"{ORIGIN}:{identifier(report, *key)}", "build_id": record, **about, "environment": _environment(report), **test}
            for key, test in tests
        ],
    })  # fmt: skip


def _test(result: RequirementResult, finding: Finding) -> tuple[tuple[str, ...], dict[str, Any]]:
    misc = {
        "finding": finding.id,
        "level": finding.level.value,
        "requirement": {"id": result.id, "title": result.title, "level": result.level.value, "outcome": result.outcome.value},
        "observed": finding.observed,
        "expected": finding.expected,
        "remediation": finding.remediation,
        "owner": finding.owner.value,
        "waiver": waived(finding),
        "evidence": [{"path": each.path, "status": each.status.value, "sha256": each.sha256} for each in finding.evidence],
    }
    test = {"path": _path(finding.check), "status": _STATUS[finding.outcome], "comment": finding.id, "log_excerpt": said(finding)}
    return ("finding", finding.id), {**test, "misc": misc}


def _run(number: int, run: ModelRun) -> tuple[tuple[str, ...], dict[str, Any]]:
    test: dict[str, Any] = {"path": _path(f"zoo.{run.model}.run"), "status": "MISS", "comment": f"{run.model}: {run.status}"}
    latency = run.bracket_us
    if run.status == "completed" and latency is not None and math.isfinite(latency):
        test |= {"status": "DONE", "number": {"value": latency / 1e6, "unit": "s", "prefix": "metric"}}
    digest = hashlib.sha256(run.model.encode()).hexdigest()
    return ("run", str(number), digest), {**test, "log_excerpt": run.message, "misc": {"runtime": run.runtime, "delegate": run.delegate}}


def _environment(report: Report) -> dict[str, Any]:
    remark = ", a demonstration" if report.device.demonstration else ""
    return {"comment": f"{report.device.name} ({report.device.source}{remark})"}


def _path(name: str) -> str:
    """A name as a path of tests: parts of letters, digits, `_` and `-`, joined by dots."""
    parts = [re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in f"crosml-audit.{name}".split(".")]
    return ".".join(part for part in parts if part)


FORMAT = Format("kcidb", "application/json", ".kcidb.json", render)

"""An in-toto statement (Statement v1) with the predicate `test-result/v0.1`, not signed.

The subject is the record that was judged. `PASSED` is a compliant verdict; `WARNED` is one that rests on a waiver, or beside which a
recommendation is open; anything else, an incomplete verdict too, is `FAILED`. Tests are findings by id: failed are those that keep the
verdict from compliant (failed, unknown, broken), warned the waived ones and the recommendations.
"""

from __future__ import annotations

import hashlib
from typing import Any

from auditor.model import Format, Report, Verdict
from reports.json import render as as_json
from reports.machine import Standing, bounded, document, findings, location, record_digest, standing, undecided

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"

_RED = frozenset({Standing.FAILED, Standing.BROKEN, Standing.OPEN})
_YELLOW = frozenset({Standing.WAIVED, Standing.ADVISED})


def render(report: Report) -> str:
    """The report as one statement, not signed."""
    digest = record_digest(report)
    subject = {"name": "record.json", "digest": {"sha256": digest}}
    if digest is None:
        subject = {"name": "report.json", "digest": {"sha256": hashlib.sha256(as_json(report).encode()).hexdigest()}}
    report = bounded(report)
    return document({
        "_type": STATEMENT,
        "subject": [subject],
        "predicateType": PREDICATE,
        "predicate": {
            "result": _result(report),
            "configuration": [
                {"name": "requirements", "uri": f"crosml-audit:requirements/{location(report.requirements_set)}"},
                {"name": "tool", "uri": f"crosml-audit:version/{location(report.tool.version)}"},
            ],
            "passedTests": _named(report, frozenset({Standing.PASSED})),
            "warnedTests": _named(report, _YELLOW),
            "failedTests": [*_named(report, _RED), *(result.id for result in report.requirements if undecided(result))],
        },
    })  # fmt: skip


def _result(report: Report) -> str:
    if report.verdict is not Verdict.COMPLIANT:
        return "FAILED"
    return "WARNED" if _named(report, _YELLOW) else "PASSED"


def _named(report: Report, wanted: frozenset[Standing]) -> list[Any]:
    return [finding.id for result, finding in findings(report) if standing(result, finding) in wanted]


FORMAT = Format("in-toto", "application/vnd.in-toto+json", ".intoto.json", render)

"""OSCAL 1.1 assessment results (NIST), for a governance system: a finding for each requirement, an observation for each of our findings.

| requirement | `target.status` |
|---|---|
| `pass`, waived or not | `satisfied`, reason `pass`; `other` where a waiver carries it |
| `fail` | `not-satisfied`, reason `fail` |
| `unknown`, `error` | `not-satisfied`, reason `other`: OSCAL has no third state, and what nobody showed is not satisfied |
| `not-applicable` | `satisfied`, reason `other` |

The outcome itself, the level and the waiver are properties in our namespace. The back matter has the record by its digest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from auditor.model import Format, Outcome
from reports.machine import bounded, claimed, document, identifier, location, moment, record_digest, waived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import Evidence, Finding, Report, RequirementResult

OSCAL = "1.1.3"
NAMESPACE = "https://crosml-audit.invalid/ns/oscal"
"""Of our properties; it names, and leads nowhere."""


def render(report: Report) -> str:
    """The report as one OSCAL document."""
    report = bounded(report)
    when = moment(report).isoformat()
    record = identifier(report, "record")
    controls = list(dict.fromkeys(_token(result.id) for result in report.requirements)) or ["none"]
    results = {
        "uuid": identifier(report, "result"),
        "title": f"Audit of {report.device.name}",
        "description": f"{report.tool.name} {report.tool.version} judged the record of {report.device.name} by {report.requirements_set}.",
        "start": when,
        "end": when,
        "props": list(
            _properties(
                verdict=report.verdict.value,
                requirements_set=report.requirements_set,
                device=report.device.name,
                source=report.device.source,
                kernel=report.device.kernel or "",
                demonstration=str(report.device.demonstration).lower(),
            )
        ),
        "reviewed-controls": {"control-selections": [{"include-controls": [{"control-id": each} for each in controls]}]},
        **_some("observations", [_observation(report, finding, when) for result in report.requirements for finding in result.findings]),
        **_some("findings", [_finding(report, result) for result in report.requirements]),
        **_some("remarks", "\n\n".join(report.notes)),
    }
    return document({
        "assessment-results": {
            "uuid": identifier(report, "oscal"),
            "metadata": {
                "title": f"Audit of {report.device.name}",
                "last-modified": when,
                "version": report.tool.version or "0",
                "oscal-version": OSCAL,
            },
            "import-ap": {"href": f"#{record}", "remarks": "The plan is the requirement set that the result names."},
            "results": [results],
            "back-matter": {"resources": [_record(report, record)]},
        }
    })  # fmt: skip


def _record(report: Report, name: str) -> dict[str, Any]:
    digest = record_digest(report)
    hashes = {"hashes": [{"algorithm": "SHA-256", "value": digest}]} if digest else {}
    return {
        "uuid": name,
        "title": "The record that was judged",
        "rlinks": [{"href": "record.json", "media-type": "application/json", **hashes}],
    }


def _finding(report: Report, result: RequirementResult) -> dict[str, Any]:
    counted = getattr(result, "standing", result.outcome)
    satisfied = counted in {Outcome.PASS, Outcome.NOT_APPLICABLE}
    reason = "fail" if counted is Outcome.FAIL else "pass" if counted is Outcome.PASS and not result.waived else "other"
    observations = [{"observation-uuid": _uuid(report, finding)} for finding in result.findings]
    waivers = [f"{finding.id} is {finding.outcome.value}, waived: {waived(finding)}" for finding in result.findings if finding.waiver]
    return {
        "uuid": identifier(report, "finding", result.id),
        "title": result.title or result.id,
        "description": f"{result.id} is {result.outcome.value}.",
        "props": list(_properties(outcome=result.outcome.value, level=result.level.value, waived=str(result.waived).lower())),
        "target": {
            "type": "objective-id",
            "target-id": _token(result.id),
            "status": {"state": "satisfied" if satisfied else "not-satisfied", "reason": reason},
        },
        **_some("related-observations", observations),
        **_some("remarks", "\n\n".join(waivers)),
    }


def _observation(report: Report, finding: Finding, when: str) -> dict[str, Any]:
    properties = _properties(
        outcome=finding.outcome.value,
        level=finding.level.value,
        check=finding.check,
        subject=finding.subject,
        owner=finding.owner.value,
        waiver=waived(finding),
    )
    return {
        "uuid": _uuid(report, finding),
        "title": finding.id,
        "description": finding.observed or finding.reason or finding.id,
        "props": list(properties),
        "methods": ["EXAMINE"],
        "types": ["finding"],
        "collected": when,
        **_some("relevant-evidence", [_evidence(each) for each in finding.evidence]),
        "remarks": f"Expected: {finding.expected}. {finding.reason} Fix ({finding.owner.value}): {finding.remediation}{claimed(finding)}",
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    properties = list(_properties(status=evidence.status.value, sha256=evidence.sha256 or ""))
    return {
        "href": location(evidence.path),
        "description": evidence.path or "record",
        "props": properties,
        **_some("remarks", evidence.excerpt),
    }


def _uuid(report: Report, finding: Finding) -> str:
    return identifier(report, "observation", finding.id)


def _properties(**values: str) -> Iterator[dict[str, str]]:
    """Properties that have a value; OSCAL allows none that is empty or begins or ends in a space."""
    for name, value in values.items():
        if value.strip():
            yield {"name": name.replace("_", "-"), "ns": NAMESPACE, "value": value.strip()}


def _some(name: str, value: Any) -> dict[str, Any]:
    """A member that OSCAL allows to be missing and not to be empty."""
    return {name: value} if value else {}


def _token(name: str) -> str:
    """An id as an OSCAL token: a letter or `_`, then letters, digits, `.`, `-` and `_`."""
    return re.sub(r"^(?![A-Za-z_])", "_", re.sub(r"[^A-Za-z0-9._-]", "_", name))


FORMAT = Format("oscal", "application/json", ".oscal.json", render)

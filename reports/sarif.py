"""SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format), for code scanning.

| finding | `kind` | `level` |
|---|---|---|
| `fail` of a `must` requirement and check | `fail` | `error` |
| `fail` of a `should` one | `fail` | `warning` |
| `unknown` | `open` | `none` |
| `error` | `open`, with a tool execution notification | `none` |

What passed or does not apply is named in the run's properties: code scanning sites take every result for a problem, whatever its kind
says, and refuse a file with one that has no place. A waived finding keeps its kind and has an accepted external suppression. A rule is a
check; where a finding was read is a path below `DEVICE`, the root of the device's file system, or the record below `SNAPSHOT` for a
finding that names no file.
"""

from __future__ import annotations

from typing import Any

from auditor.model import Finding, Format, Outcome, Report, RequirementResult
from reports.machine import (
    bounded,
    document,
    findings,
    fingerprint,
    identifier,
    location,
    record_digest,
    said,
    standing,
    undecided,
    waived,
)
from reports.wording import binding

_QUIET = (Outcome.PASS, Outcome.NOT_APPLICABLE)


def render(report: Report) -> str:
    """The report as one SARIF log with one run."""
    report = bounded(report)
    found = list(findings(report))
    rules = {finding.check: _rule(result, finding) for result, finding in found}
    numbers = {name: number for number, name in enumerate(rules)}
    digest = record_digest(report)
    broken = [finding for _, finding in found if finding.outcome is Outcome.ERROR]
    run: dict[str, Any] = {
        "tool": {"driver": {"name": report.tool.name or "crosml-audit", "version": report.tool.version, "rules": list(rules.values())}},
        "automationDetails": {"id": f"crosml-audit/{location(report.requirements_set)}/", "guid": identifier(report, "sarif")},
        "invocations": [{"executionSuccessful": not broken, "toolExecutionNotifications": [_notification(each) for each in broken]}],
        "originalUriBaseIds": {
            "DEVICE": {"description": {"text": "The root of the device's file system."}},
            "SNAPSHOT": {"description": {"text": "The record of the device that was judged."}},
        },
        "artifacts": [
            {
                "location": {"uri": "record.json", "uriBaseId": "SNAPSHOT"},
                **({"hashes": {"sha-256": digest}} if digest else {}),
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": [_result(result, finding, numbers[finding.check]) for result, finding in found if finding.outcome not in _QUIET],
        "properties": {
            **{
                each.value: [finding.id for _, finding in found if finding.outcome is each]
                for each in sorted(_QUIET, key=lambda each: each.value)
            },
            "undecided": [result.id for result in report.requirements if undecided(result)],
            "verdict": report.verdict.value,
            "counts": dict(report.counts),
            "requirementsSet": report.requirements_set,
            "device": f"{report.device.name} ({report.device.source})",
            "demonstration": report.device.demonstration,
            "notes": list(report.notes),
        },
    }
    return document({"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]})


def _rule(result: RequirementResult, finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.check,
        "shortDescription": {"text": finding.expected or finding.check},
        "fullDescription": {"text": result.title or result.id},
        "help": {"text": finding.remediation or finding.expected or finding.check},
        "defaultConfiguration": {"level": "error" if binding(result, finding) else "warning"},
        "properties": {"requirement": result.id, "level": finding.level.value, "requirementLevel": result.level.value},
    }


def _result(result: RequirementResult, finding: Finding, rule: int) -> dict[str, Any]:
    failed = finding.outcome is Outcome.FAIL
    return {
        "ruleId": finding.check,
        "ruleIndex": rule,
        "kind": "fail" if failed else "open",
        "level": ("error" if binding(result, finding) else "warning") if failed else "none",
        "message": {"text": said(finding) or finding.id},
        "locations": [_location(finding)],
        "relatedLocations": [{"id": number, **_place(each)} for number, each in enumerate(finding.evidence[1:], 1)],
        "partialFingerprints": {"crosmlAuditFinding/v1": fingerprint(finding)},
        "suppressions": [{"kind": "external", "status": "accepted", "justification": waived(finding)}] if finding.waiver else [],
        "properties": {
            "finding": finding.id,
            "outcome": finding.outcome.value,
            "standing": standing(result, finding).value,
            "expected": finding.expected,
            "remediation": finding.remediation,
            "owner": finding.owner.value,
        },
    }


def _location(finding: Finding) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": "record.json", "uriBaseId": "SNAPSHOT", "index": 0}}}
    if finding.evidence:
        place = _place(finding.evidence[0])
    return {**place, "logicalLocations": [{"fullyQualifiedName": finding.subject}]}


def _place(evidence: Any) -> dict[str, Any]:
    region = {"region": {"startLine": 1, "snippet": {"text": evidence.excerpt}}} if evidence.excerpt else {}
    where = {"uri": location(evidence.path), "uriBaseId": "DEVICE"}
    return {
        "physicalLocation": {"artifactLocation": where, **region},
        "properties": {"path": evidence.path, "status": evidence.status.value, "sha256": evidence.sha256},
    }


def _notification(finding: Finding) -> dict[str, Any]:
    return {"level": "error", "message": {"text": f"{finding.id}: {finding.observed}"}, "associatedRule": {"id": finding.check}}


FORMAT = Format("sarif", "application/sarif+json", ".sarif", render)

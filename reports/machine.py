"""What the formats that programs read share: bounded text, stable identifiers, a date that is one, and what a finding comes down to.

A report may be an old or a stranger's file: nothing in it is taken for a date, a digest or an identifier before it is seen to be one.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from auditor.model import Level, Outcome
from reports.wording import CITED, binding, cut, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import Finding, Report, RequirementResult

T = TypeVar("T")

TEXT = 4096
"""Characters of one text that are kept; the JSON report has all of it."""
EVIDENCE = 64
"""Pieces of evidence of one finding that are kept."""

_NAMESPACE = uuid.UUID("6e1d7ba4-3a55-5d5c-8a0e-0b6d43c1c9a7")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Standing(enum.Enum):
    """What a finding comes down to for a program that knows only red, yellow and green."""

    PASSED = "passed"
    FAILED = "failed"
    """A `must` finding that failed."""
    BROKEN = "broken"
    """A `must` finding whose check broke."""
    OPEN = "open"
    """A `must` finding that nothing decides."""
    WAIVED = "waived"
    """A failed or open finding that a waiver covers."""
    ADVISED = "advised"
    """A `should` finding that did not pass."""
    NOT_APPLICABLE = "not-applicable"


def standing(result: RequirementResult, finding: Finding) -> Standing:
    """The standing of one finding of a requirement."""
    if finding.outcome is Outcome.PASS:
        return Standing.PASSED
    if finding.outcome is Outcome.NOT_APPLICABLE:
        return Standing.NOT_APPLICABLE
    if finding.waiver:
        return Standing.WAIVED
    if not binding(result, finding):
        return Standing.ADVISED
    return {Outcome.FAIL: Standing.FAILED, Outcome.ERROR: Standing.BROKEN}.get(finding.outcome, Standing.OPEN)


def findings(report: Report) -> Iterator[tuple[RequirementResult, Finding]]:
    """Every finding with its requirement, in the report's order."""
    return ((result, finding) for result in report.requirements for finding in result.findings)


def undecided(result: RequirementResult) -> bool:
    """Whether a `must` requirement that was selected has no `must` finding: it is unknown, and no finding says so."""
    return result.selected and result.level is Level.MUST and not any(finding.level is Level.MUST for finding in result.findings)


def told_outcome(result: RequirementResult) -> str:
    """A requirement's outcome in words; of one that passes because of a waiver, the outcome that the waiver covers."""
    covered = {finding.outcome for finding in result.findings if finding.waiver and finding.level is Level.MUST}
    if not result.waived or not covered:
        return result.outcome.value
    return f"{(Outcome.FAIL if Outcome.FAIL in covered else Outcome.UNKNOWN).value}, waived"


def bounded(value: T) -> T:
    """The same report with every text visible (see `shown`) and cut to `TEXT`, and at most `EVIDENCE` pieces of evidence a finding.

    What is cut is cut first: a device may give megabytes.
    """
    return _cut(shown(_cut(value)))  # type: ignore[no-any-return]


def _cut(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return cut(value, TEXT)
    if isinstance(value, tuple):
        return tuple(map(_cut, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(fields.get("evidence"), tuple):
            fields["evidence"] = fields["evidence"][:EVIDENCE]
        return dataclasses.replace(value, **{name: _cut(each) for name, each in fields.items()})
    return value


def said(finding: Finding) -> str:
    """A finding in a few sentences: why it is what it is, what was observed, and what the vendor claims."""
    observed = f" Observed: {finding.observed}" if finding.observed else ""
    return f"{finding.reason}{observed}{claimed(finding)}".strip()


def claimed(finding: Finding) -> str:
    """What the vendor states on a finding, as sentences led by a blank; empty where nothing is stated."""
    return "".join(f" Claimed: {claim.sentence}" for claim in finding.claims[:CITED])


def waived(finding: Finding) -> str:
    """A waiver in one sentence; empty where there is none."""
    return finding.waiver.sentence if finding.waiver else ""


def moment(report: Report) -> datetime.datetime:
    """When the record was made, in UTC; 1970 where the report does not say so in a way that can be read."""
    text = report.device.collected_at
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text, re.ASCII):
        try:
            return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(datetime.timezone.utc)
        except (ValueError, OverflowError):
            pass
    return _EPOCH


def record_digest(report: Report) -> str | None:
    """The sha256 of the record that was judged; None where the report has none."""
    return report.device.snapshot_sha256 if _SHA256.fullmatch(report.device.snapshot_sha256) else None


def identifier(report: Report, *parts: str) -> str:
    """A UUID (version 5) that is the same whenever the same record was judged by the same set and auditor."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps([report.device.snapshot_sha256, report.requirements_set, report.tool.version, *parts])))


def fingerprint(finding: Finding) -> str:
    """What stays the same of a finding from one audit to the next: its id, as a digest."""
    return hashlib.sha256(finding.id.encode()).hexdigest()


def location(path: str) -> str:
    """A path of the device as a relative URI reference."""
    return quote(path.strip("/") or ".", safe="/._-~@+=,")


def document(value: Any) -> str:
    """A JSON document: ASCII, so that printing it cannot drive a terminal."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"

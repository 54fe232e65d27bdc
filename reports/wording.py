"""What the formats that people read share: text that is safe to show, and how a finding tells its story."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, TypeVar

from auditor.model import Evidence, Finding, Level, Outcome, RequirementResult, Status, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

CITED = 8
"""Evidence of one finding that is listed; the JSON report has all of it."""


def shown(value: T) -> T:
    """The same report, or part of one, with nothing in it that could drive a terminal, break a line or reorder what is read.

    Every text is made `visible`; mappings (figures and conditions) are left as they are.
    """
    return _shown(value)  # type: ignore[no-any-return]


def _shown(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{field.name: _shown(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


def binding(result: RequirementResult, finding: Finding) -> bool:
    """Whether a finding of a requirement bears on the verdict."""
    return result.level is Level.MUST and finding.level is Level.MUST


def told(finding: Finding, cited: int | None = CITED) -> Iterator[tuple[str, str]]:
    """What a finding says of itself: pairs of a label (at most 8 characters) and a line; `cited` evidence, all of it where None."""
    yield "observed", finding.observed
    yield "expected", finding.expected
    yield "reason", finding.reason
    if finding.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE}:
        yield "fix", finding.remediation
        yield "owner", finding.owner.value
    if finding.waiver:
        yield "waiver", finding.waiver.sentence
    for claim in finding.claims:
        yield "claimed", claim.sentence
    for evidence in finding.evidence[:cited]:
        yield "evidence", _cited(evidence)
    if cited is not None and len(finding.evidence) > cited:
        yield "", f"and {len(finding.evidence) - cited} more, which the JSON report lists"


def cut(text: str, room: int) -> str:
    """Text that is too long for its place, without its middle."""
    if len(text) <= room:
        return text
    half = (room - 1) // 2
    return f"{text[: room - 1 - half]}…{text[-half:]}"


def _cited(evidence: Evidence) -> str:
    """One piece of evidence: where, how it answered, what it said, its digest."""
    status = "" if evidence.status is Status.OK else f"({evidence.status.value})"
    excerpt = f'"{cut(evidence.excerpt, 160)}"' if evidence.excerpt else ""
    digest = f"sha256 {cut(evidence.sha256, 17)}" if evidence.sha256 else ""
    return " ".join(part for part in (evidence.path, status, excerpt, digest) if part)

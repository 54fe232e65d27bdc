"""JSON reports that were written earlier: read back, and compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import engine, files
from auditor.codec import decode_json
from auditor.errors import AuditError
from auditor.model import REPORT_SCHEMA, Level, Outcome, Report, Verdict, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.model import Evidence, Finding, RequirementResult

SIZE_LIMIT = 64 << 20
"""Bytes of a report file."""


@dataclass(frozen=True, slots=True)
class _Header:
    schema: str


def load_report(path: str) -> Report:
    """The report in a JSON file. Raises AuditError with one line where it cannot be read, is no report, or contradicts itself."""
    data = files.read(path, SIZE_LIMIT, path, AuditError)
    schema = decode_json(data, _Header, path).schema
    if schema != REPORT_SCHEMA:
        raise AuditError(visible(f"{path}: schema: expected {REPORT_SCHEMA}, got {schema[:80]!r}"))
    report = _current(decode_json(data, Report, path))
    for contradiction in _contradictions(report):
        raise AuditError(visible(f"{path}: {contradiction}"))
    return report


def _current(report: Report) -> Report:
    """The report with what its waivers cover told apart: earlier versions gave a requirement that is waived the outcome `pass`."""
    results = tuple(map(_apart, report.requirements))
    return replace(report, requirements=results)


def _apart(result: RequirementResult) -> RequirementResult:
    found, waived = engine.outcome(result.findings)
    earlier = Outcome.PASS if waived else found
    covered = any(finding.waiver for finding in result.findings if finding.level is Level.MUST)
    return replace(result, outcome=found, waived=waived) if covered and (result.outcome, result.waived) == (earlier, True) else result


def diff(old: Report, new: Report) -> Iterator[str]:
    """What changed between two reports and why, in lines; none where every finding has the outcome and the reason that it had.

    A figure that moved without changing an outcome is no difference.
    """
    return map(visible, _differences(old, new))


def chain(report: Report, result: RequirementResult, finding: Finding) -> Iterator[str]:
    """How a finding came about, in lines and in order: what is required, what was read, what that says, what follows."""
    return map(visible, _chain(report, result, finding))


def _chain(report: Report, result: RequirementResult, finding: Finding) -> Iterator[str]:
    yield f"{finding.id}: {_outcome(finding)}"
    yield ""
    yield f"1. Required by {result.id} ({result.level.value}): {result.title}"
    yield from (f"   {label:<10}{text}" for label, text in (("text", result.text), ("source", result.source)) if text)
    yield from ([f"   {'read as':<10}{result.interpretation}"] if result.interpretation else [])
    yield f"2. Asked by {finding.check} ({finding.level.value}) about {finding.subject}"
    yield f"   {'expected':<10}{finding.expected}"
    when = f", recorded {report.device.collected_at}" if report.device.collected_at else ""
    yield f"3. Read from {report.device.name} ({report.device.source}){when}"
    if report.device.snapshot_sha256:
        yield f"   {'record':<10}sha256 {report.device.snapshot_sha256}"
    for number, each in enumerate(finding.evidence, 1):
        role = "" if each.necessary else ", not needed alone"
        yield f"   {number}. {each.path} ({each.status.value}{role})"
        yield from (f"      {line}" for line in (each.excerpt, each.sha256 and f"sha256 {each.sha256}") if line)
    yield from ([] if finding.evidence else ["   nothing that can be cited"])
    yield f"4. Observed: {finding.observed}"
    yield f"5. Therefore {finding.outcome.value}: {finding.reason}"
    waiver = finding.waiver
    if waiver:
        yield f"   {'waived':<10}{waiver.reason} ({waiver.author}, until {waiver.expires.isoformat()})"
    if finding.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE}:
        yield f"   {'fix':<10}{finding.remediation}"
        yield f"   {'owner':<10}{finding.owner.value}"
    bears = result.level is Level.MUST and finding.level is Level.MUST
    alike = sum(each.outcome is result.outcome and each.level is Level.MUST for each in result.findings)
    shared = f"; findings of it with that outcome: {alike}" if alike > 1 and finding.outcome is result.outcome else ""
    yield (
        f"6. So {result.id} is {_standing(result)}{shared}" if bears else f"6. {result.id} is {_standing(result)}; this is advice beside it"
    )
    yield f"   {'verdict':<10}{report.verdict.value}, by {report.requirements_set}"


def _contradictions(report: Report) -> Iterator[str]:
    """Where a report does not add up: it was changed after it was written."""
    names = Counter(finding.id for result in report.requirements for finding in result.findings)
    yield from (f"requirements: {name} is there {count} times, expected once" for name, count in names.items() if count > 1)
    for number, result in enumerate(report.requirements):
        for finding in result.findings:
            if finding.waiver and finding.outcome not in {Outcome.FAIL, Outcome.UNKNOWN}:
                yield f"requirements[{number}]: {finding.id} is {finding.outcome.value} and waived; only fail and unknown can be"
        outcome, waived = engine.outcome(result.findings, partial=report.partial)
        if result.outcome is not outcome:
            yield f"requirements[{number}].outcome: expected {outcome.value}, which its findings add up to, got {result.outcome.value}"
        if result.waived is not waived:
            yield f"requirements[{number}].waived: expected {str(waived).lower()}, which its findings add up to"
    verdict, counts = engine.verdict(report.requirements, partial=report.partial), engine.counts(report.requirements)
    if report.verdict is not verdict:
        yield f"verdict: expected {verdict.value}, which the requirements add up to, got {report.verdict.value}"
    if report.incomplete and report.verdict is not Verdict.INCOMPLETE:
        yield f"incomplete: expected null beside the verdict {report.verdict.value}"
    if report.counts != counts:
        yield "counts: expected those of the findings"


def _differences(old: Report, new: Report) -> Iterator[str]:
    for name, before, after in (
        ("tool", f"{old.tool.name} {old.tool.version}", f"{new.tool.name} {new.tool.version}"),
        ("requirements set", old.requirements_set, new.requirements_set),
        ("device", f"{old.device.name} ({old.device.source})", f"{new.device.name} ({new.device.source})"),
        ("kernel", old.device.kernel or "unknown", new.device.kernel or "unknown"),
        ("accelerators", _names(old), _names(new)),
        ("verdict", old.verdict.value, new.verdict.value),
    ):
        if before != after:
            yield f"{name}: {before}, now {after}"
    earlier = {result.id: result for result in old.requirements}
    later = {result.id: result for result in new.requirements}
    for name in dict.fromkeys((*earlier, *later)):
        yield from _requirement(name, earlier.get(name), later.get(name))


def _requirement(name: str, old: RequirementResult | None, new: RequirementResult | None) -> Iterator[str]:
    before = {finding.id: finding for finding in old.findings} if old else {}
    after = {finding.id: finding for finding in new.findings} if new else {}
    lines = [line for each in dict.fromkeys((*before, *after)) for line in _finding(each, before.get(each), after.get(each))]
    if lines or _standing(old) != _standing(new):
        yield f"{name}: {_change(_standing(old), _standing(new))}"
    yield from lines


def _finding(name: str, old: Finding | None, new: Finding | None) -> Iterator[str]:
    """What became of one finding: its outcome, why it had it, and what was read differently."""
    if old and new and (old.outcome, old.waiver, old.level, old.reason) == (new.outcome, new.waiver, new.level, new.reason):
        return
    yield f"  {name}: {_change(_outcome(old), _outcome(new))}"
    if old:
        yield f"    was: {old.observed}. {old.reason}"
    if new:
        yield f"    now: {new.observed}. {new.reason}"
    if old and new:
        before, after = _read(old.evidence), _read(new.evidence)
        for path in sorted({*before, *after}):
            if before.get(path) != after.get(path):
                yield f"    {path}: {_change(before.get(path), after.get(path))}"


def _standing(result: RequirementResult | None) -> str | None:
    if result is None:
        return None
    return result.outcome.value + _level(result.level) + (", waived" if result.waived else "")


def _outcome(finding: Finding | None) -> str | None:
    if finding is None:
        return None
    waiver = finding.waiver
    covered = f", waived by {waiver.author} until {waiver.expires.isoformat()}: {waiver.reason}" if waiver else ""
    return finding.outcome.value + _level(finding.level) + covered


def _level(level: Level) -> str:
    return " (should)" if level is Level.SHOULD else ""


def _change(before: str | None, after: str | None) -> str:
    if before == after:
        return f"still {after}"
    if before is None:
        return f"new, {after}"
    return f"{before}, now {after}" if after is not None else f"{before}, now gone"


def _read(evidence: tuple[Evidence, ...]) -> dict[str, str]:
    """What was read of each path: how it answered, its digest, what it said."""
    return {
        each.path: " ".join(part for part in (each.status.value, each.excerpt[:80], (each.sha256 or "")[:12]) if part) for each in evidence
    }


def _names(report: Report) -> str:
    return ", ".join(f"{each.id} driver {each.driver or 'unknown'}" for each in report.accelerators) or "none"

"""What changed between two reports, and why: the device, the rules, the auditor, a waiver, a measurement, or what could be read. Pure.

A cause is named from what the reports hold. Of the same record, only the rules, the auditor, the options and the waivers can differ; else
the evidence that a finding cites tells it, and for a model the runs, by a rank test on the means of its processes.
"""

from __future__ import annotations

import enum
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.model import Level, Outcome, Status, Verdict
from auditor.statistics import rank_test

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.model import Evidence, Finding, ModelRun, Report, RequirementResult

SIGNIFICANT = 0.05
"""Probability below which a difference of ranks is not taken for chance."""
CONTEXT = 24
"""Characters around the changed part of a value."""

MOST_RUNS = 1000
_HIGHEST = 1e15
"""Above it, a figure is no measurement."""

_WORSE = (Outcome.NOT_APPLICABLE, Outcome.PASS, Outcome.UNKNOWN, Outcome.ERROR, Outcome.FAIL)
_VERDICTS = (Verdict.COMPLIANT, Verdict.INCOMPLETE, Verdict.NON_COMPLIANT)


class Cause(enum.Enum):
    """Why a finding is another one now."""

    DEVICE = "device"
    """What is read on the device says something else."""
    REQUIREMENTS = "requirement set"
    AUDITOR = "auditor version"
    STATED = "the vendor's report: this auditor does not get it from the same record and rules"
    """Only of a review: the same auditor does not come to what the report says."""
    OPTIONS = "options"
    """The same record, rules and auditor: trusted roots, manifest, base image, date or selection."""
    WAIVER = "waiver"
    BEYOND_NOISE = "measurement, beyond noise"
    WITHIN_NOISE = "measurement, within noise"
    FEW_RUNS = "measurement, too few runs to tell from noise"
    GAINED = "evidence gained"
    LOST = "evidence lost"


@dataclass(frozen=True, slots=True)
class Read:
    """One piece of evidence in both reports: what it said, in words; None where it is not cited. `status` of a missing file is a word."""

    path: str
    before: str | None
    after: str | None

    @property
    def change(self) -> str:
        """What became of it, in words."""
        if self.before is None:
            return f"cited now: {self.after}"
        if self.after is None:
            return "no longer cited"
        old, new = changed_part(self.before, self.after)
        return f"{old}, now {new}"


@dataclass(frozen=True, slots=True)
class Change:
    """A finding that is not what it was. `before` and `after` are its outcome in words, None where the report does not have it."""

    requirement: str
    finding: str
    before: str | None
    after: str | None
    causes: tuple[Cause, ...]
    observed: tuple[str, str]
    """The changed part of what was observed."""
    reason: tuple[str, str]
    evidence: tuple[Read, ...]
    regression: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean of a model's figures over its processes in two reports, and the probability that chance orders the processes so.

    `quantity` is `latency` (microseconds, by the auditor's clock where it has one), `memory` (bytes at the peak, with the device's) or
    `accuracy` (the largest mean error of an output, in its own units): of each, less is better.
    """

    model: str
    quantity: str
    before: float
    after: float
    runs: tuple[int, int]
    probability: float
    cause: Cause

    @property
    def relative(self) -> float | None:
        """By which share of itself the figure grew; negative where it shrank, None where it was zero."""
        return self.after / self.before - 1 if self.before else None


_Moved = dict[tuple[str, str], Cause]
"""By model and quantity, why the figures are others."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that differs between two reports."""

    about: tuple[tuple[str, str, str], ...]
    """What the reports are about, where it differs: name, before, after."""
    requirements: tuple[tuple[str, str | None, str | None], ...]
    """Requirements whose outcome differs, or that one report does not have."""
    findings: tuple[Change, ...]
    measured: tuple[Measured, ...]
    regression: bool
    """Whether a `must` finding, the verdict, or a measurement (beyond noise and tolerance) is worse than it was."""

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.about or self.requirements or self.findings or self.measured)


def compare(old: Report, new: Report, tolerance: float = 0.05) -> Comparison:
    """What changed from one report to another.

    A measured figure that moved by at most `tolerance` of itself is left out. A figure that moved without changing an outcome is no change
    of a finding; it is among the measurements.
    """
    moved, figures = _moved(old, new)
    measured = tuple(each for each in figures if abs(each.after - each.before) > tolerance * each.before)
    findings = tuple(_findings(old, new, moved))
    before, after = ({result.id: result for result in report.requirements} for report in (old, new))
    standings = ((name, _standing(before.get(name)), _standing(after.get(name))) for name in dict.fromkeys((*before, *after)))
    worse = (
        any(change.regression for change in findings)
        or _VERDICTS.index(new.verdict) > _VERDICTS.index(old.verdict)
        or any(each.cause is Cause.BEYOND_NOISE and each.after > each.before for each in measured)
    )
    return Comparison(
        about=tuple(each for each in _about(old, new) if each[1] != each[2]),
        requirements=tuple(each for each in standings if each[1] != each[2]),
        findings=findings,
        measured=measured,
        regression=worse,
    )


def changed_part(before: str, after: str) -> tuple[str, str]:
    """Of two texts, the parts that differ, whole words, with a little of what is around them."""
    if before == after:
        return before, after
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    parts = []
    for text in (before, after):
        first, last = start, len(text) - end
        while first > 0 and text[first - 1].isalnum():
            first -= 1
        while last < len(text) and text[last].isalnum():
            last += 1
        first, last = max(0, first - CONTEXT), min(len(text), last + CONTEXT)
        parts.append(("…" if first else "") + text[first:last] + ("…" if last < len(text) else ""))
    return parts[0], parts[1]


def _common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(first), len(second)))


def _about(old: Report, new: Report) -> Iterator[tuple[str, str, str]]:
    yield "tool", f"{old.tool.name} {old.tool.version}", f"{new.tool.name} {new.tool.version}"
    yield "requirements set", old.requirements_set, new.requirements_set
    yield "device", f"{old.device.name} ({old.device.source})", f"{new.device.name} ({new.device.source})"
    yield "board", old.device.board or "unknown", new.device.board or "unknown"
    yield "kernel", old.device.kernel or "unknown", new.device.kernel or "unknown"
    yield "accelerators", _names(old), _names(new)
    yield "selection", ", ".join(old.selection) or "everything", ", ".join(new.selection) or "everything"
    yield "verdict", old.verdict.value, new.verdict.value


def _names(report: Report) -> str:
    return ", ".join(f"{each.id} driver {each.driver or 'unknown'}" for each in report.accelerators) or "none"


def _findings(old: Report, new: Report, moved: _Moved) -> Iterator[Change]:
    earlier, later = ({result.id: result for result in report.requirements} for report in (old, new))
    for name in dict.fromkeys((*earlier, *later)):
        first, second = earlier.get(name), later.get(name)
        before = {finding.id: finding for finding in first.findings} if first else {}
        after = {finding.id: finding for finding in second.findings} if second else {}
        for each in dict.fromkeys((*before, *after)):
            was, now = before.get(each), after.get(each)
            if was and now and first and second and first.level is second.level and _same(was, now):
                continue
            yield Change(
                requirement=name,
                finding=each,
                before=_outcome(was) if was else None,
                after=_outcome(now) if now else None,
                causes=_causes(old, new, moved, (first, was), (second, now)),
                observed=changed_part(was.observed, now.observed)
                if was and now
                else (was.observed if was else "", now.observed if now else ""),
                reason=(was.reason if was else "", now.reason if now else ""),
                evidence=tuple(_evidence(was, now)) if was and now else (),
                regression=_regressed((first, was), (second, now)),
            )


def _same(was: Finding, now: Finding) -> bool:
    return (was.outcome, was.waiver, was.level, was.reason) == (now.outcome, now.waiver, now.level, now.reason)


def _regressed(old: tuple[RequirementResult | None, Finding | None], new: tuple[RequirementResult | None, Finding | None]) -> bool:
    """Whether a finding that counts is worse; a finding that is new counts as one that passed, one that is gone as none."""
    result, finding = new
    if result is None or finding is None or Level.MUST is not result.level or Level.MUST is not finding.level:
        return False
    was = old[1]
    return _WORSE.index(_counted(finding)) > _WORSE.index(_counted(was) if was and was.level is Level.MUST else Outcome.PASS)


def _counted(finding: Finding) -> Outcome:
    return Outcome.PASS if finding.waiver else finding.outcome


def _causes(
    old: Report,
    new: Report,
    moved: _Moved,
    before: tuple[RequirementResult | None, Finding | None],
    after: tuple[RequirementResult | None, Finding | None],
) -> tuple[Cause, ...]:
    """Why a finding changed, the most telling cause first."""
    (first, was), (second, now) = before, after
    found: list[Cause] = []
    if was and now and was.waiver != now.waiver:
        found.append(Cause.WAIVER)
        if (was.outcome, was.level, was.reason) == (now.outcome, now.level, now.reason):
            return (Cause.WAIVER,)
    if old.requirements_set != new.requirements_set and _rules_differ(first, was, second, now):
        found.append(Cause.REQUIREMENTS)
    if _record(old) != _record(new):
        found += _of_evidence(was, now)
        found += _of_runs(moved, second or first)
        if not found or found == [Cause.WAIVER]:
            found.append(_of_judging(old, new) if was and now and not list(_evidence(was, now)) else Cause.DEVICE)
    elif Cause.REQUIREMENTS not in found:
        if _auditor(old) != _auditor(new):
            found.append(Cause.AUDITOR)
        else:
            found.append(Cause.REQUIREMENTS if old.requirements_set != new.requirements_set else Cause.OPTIONS)
    return tuple(dict.fromkeys(found))


def _of_judging(old: Report, new: Report) -> Cause:
    """The cause of another answer on the same evidence."""
    if _auditor(old) != _auditor(new):
        return Cause.AUDITOR
    return Cause.OPTIONS if _options(old) != _options(new) else Cause.DEVICE


def _options(report: Report) -> tuple[str, ...]:
    """What the record was judged with, but for the requirement set and the waivers, which are causes of their own."""
    words = report.judged_with
    apart = {at + more for at, word in enumerate(words) if word in {"--requirements", "--waivers", "--today"} for more in (0, 1)}
    return tuple(word for at, word in enumerate(words) if at not in apart)


def _record(report: Report) -> str:
    return report.device.snapshot_sha256


def _auditor(report: Report) -> tuple[str, str]:
    return report.tool.name, report.tool.version


def _rules_differ(first: RequirementResult | None, was: Finding | None, second: RequirementResult | None, now: Finding | None) -> bool:
    """Whether the two sets ask something else of a finding: its requirement is in one of them, or its text, level or limits differ."""
    if first is None or second is None:
        return True
    if (first.text, first.level, dict(first.limits)) != (second.text, second.level, dict(second.limits)):
        return True
    return bool(was and now and (was.expected, was.level) != (now.expected, now.level))


def _of_evidence(was: Finding | None, now: Finding | None) -> Iterator[Cause]:
    if not was or not now:
        yield Cause.DEVICE
        return
    before, after = _read(was.evidence), _read(now.evidence)
    for path in {*before, *after}:
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        readable = [each is not None and each.status in {Status.OK, Status.ABSENT} for each in (one, other)]
        if one and other and readable == [True, True]:
            yield Cause.DEVICE
        elif readable == [False, True] and _undecided(was):
            yield Cause.GAINED
        elif readable == [True, False] and _undecided(now):
            yield Cause.LOST
    if Outcome.UNKNOWN in {was.outcome, now.outcome} and was.outcome is not now.outcome and before.keys() == after.keys() == set():
        yield Cause.LOST if now.outcome is Outcome.UNKNOWN else Cause.GAINED


def _undecided(finding: Finding) -> bool:
    return finding.outcome is Outcome.UNKNOWN


def _of_runs(moved: _Moved, result: RequirementResult | None) -> Iterator[Cause]:
    quantity = result.id.rpartition("-")[2] if result else ""
    if result is not None and result.model is not None:
        cause = moved.get((result.model, quantity))
        yield from () if cause is None else (cause,)


def _moved(old: Report, new: Report) -> tuple[_Moved, tuple[Measured, ...]]:
    """What became of each figure of each model: the cause of its change, and of those that both reports have the means."""
    before, after = _figures(old), _figures(new)
    causes: _Moved = {}
    measured = []
    for model, quantity in dict.fromkeys((*before, *after)):
        first, second = before.get((model, quantity)), after.get((model, quantity))
        if first and second:
            probability, cause = _noise(first, second)
            means = statistics.fmean(first), statistics.fmean(second)
            measured.append(Measured(model, quantity, *means, (len(first), len(second)), probability, cause))
        else:
            cause = Cause.GAINED if second else Cause.LOST
        causes[model, quantity] = cause
    return causes, tuple(measured)


def _figures(report: Report) -> dict[tuple[str, str], list[float]]:
    """The figures of the runs that ended well and have them, by model and quantity; the latest, where there are more than anyone makes."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in report.model_runs:
        for quantity, read in _FIGURES.items():
            value = read(run) if run.status == "completed" else None
            if isinstance(value, (int, float)) and 0 <= value <= _HIGHEST:
                found.setdefault((run.model, quantity), []).append(value)
    return {key: values[-MOST_RUNS:] for key, values in found.items()}


def _noise(before: Sequence[float], after: Sequence[float]) -> tuple[float, Cause]:
    """The probability that chance alone orders the runs so, and what that says."""
    probability = rank_test(before, after)
    if probability <= SIGNIFICANT:
        return probability, Cause.BEYOND_NOISE
    least = 2 / math.comb(len(before) + len(after), len(before))
    return probability, Cause.FEW_RUNS if least > SIGNIFICANT else Cause.WITHIN_NOISE


def _latency(run: ModelRun) -> Any:
    return run.latency_us if run.bracket_us is None else run.bracket_us


def _memory(run: ModelRun) -> Any:
    peak = (run.memory or {}).get("peak_bytes")
    return None if run.memory is None or peak is None else peak + run.memory.get("device_bytes", 0)


def _error(run: ModelRun) -> Any:
    return max((value for each in run.accuracy or () if isinstance(value := each.get("avg_error"), (int, float))), default=None)


_FIGURES = {"latency": _latency, "memory": _memory, "accuracy": _error}


def _read(evidence: Sequence[Evidence]) -> dict[str, Evidence]:
    return {each.path: each for each in evidence}


def _evidence(was: Finding, now: Finding) -> Iterator[Read]:
    before, after = _read(was.evidence), _read(now.evidence)
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one != other:
            yield Read(path, _said(one) if one else None, _said(other) if other else None)


def _said(evidence: Evidence) -> str:
    """How a path answered, what it said, its digest."""
    digest = f"sha256 {evidence.sha256[:12]}" if evidence.sha256 else ""
    words = {Status.OK: "", Status.ABSENT: "gone"}
    return (
        " ".join(part for part in (words.get(evidence.status, evidence.status.value), evidence.excerpt.strip(), digest) if part) or "read"
    )


def _standing(result: RequirementResult | None) -> str | None:
    if result is None:
        return None
    return result.outcome.value + _should(result.level) + (", waived" if result.waived else "")


def _outcome(finding: Finding) -> str:
    waiver = finding.waiver
    covered = f", waived by {waiver.author} until {waiver.expires.isoformat()}: {waiver.reason}" if waiver else ""
    return finding.outcome.value + _should(finding.level) + covered


def _should(level: Level) -> str:
    return " (should)" if level is Level.SHOULD else ""

"""Judging: (facts, checks, requirements, waivers, today) -> report. Pure: no clock, file, environment or network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from auditor.facts.types import Listing, Missing, MissingFact, Ok
from auditor.model import (
    AcceleratorSummary,
    Answer,
    Check,
    Claim,
    Details,
    DeviceSummary,
    Finding,
    Incomplete,
    Level,
    ModelRun,
    Outcome,
    Owner,
    Remedy,
    Report,
    Requirement,
    RequirementResult,
    Status,
    Tool,
    Verdict,
    Waiver,
    ZooUsed,
    printable,
    worst,
)
from auditor.waivers import WAIVABLE, covering, in_force, matches, remarks

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from auditor.facts.types import Fact, Facts, Unrecognised

_HOW_TO = {
    Remedy.ROOT: "Audit again as root.",
    Remedy.LIVE: "Ask the device itself: run `crosml-audit device` on it, or with --host.",
    Remedy.DELEGATE: "Name the accelerator's delegate: `crosml-audit device --delegate LIB`, on the device.",
    Remedy.ZOO: "Audit the device again with the model files: `--zoo DIR`, or install ml-test-assets on it.",
    Remedy.RUNTIME: "Install a TFLite runtime (`pip install 'crosml-audit[litert]'`) or give one (`--runtime DIR`), and audit again.",
    Remedy.MANIFEST: "Pin the model files: `crosml-audit zoo pin DIR`, on a copy that you trust, writes what `--zoo-manifest FILE` takes.",
    Remedy.TOOL: "Pin the device's own tools: `--tool-manifest FILE`; or measure with the embedded runner: `--tflite ai-edge-litert`.",
    Remedy.PROBES: "Audit the device itself, as root, with probes.",
    Remedy.MORE_RUNS: "Measure longer, on the device: `--bench-time page`.",
    Remedy.DRIVER: "Load the accelerator's driver on the device, and audit it there.",
    Remedy.SELECTED: "Audit again without leaving this check out.",
    Remedy.VENDOR: "Only the vendor can answer this; attach the answer to the submission.",
    Remedy.WHAT_IT_IS: "Say what the device is: `--accelerator ID`, or `--not-an-accelerator ID`.",
    Remedy.EVIDENCE: "Make the named file readable and well-formed, and audit again.",
}

_ROOT_TOO = (
    "The device refuses this to root, too: allow it (in the kernel's configuration, the security module, the container), and audit again."
)

_LEFT_OUT = Answer(Outcome.UNKNOWN, "left out by --skip", because="Excluded by --skip.", remedy=Remedy.SELECTED)

_HOW_MISSING = {
    Status.ABSENT: "does not exist",
    Status.DENIED: "cannot be read by this user",
    Status.FAILED: "could not be read",
    Status.UNASKED: "was not recorded",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What `--only` and `--skip` name: requirements, checks, findings, or how the ids of several begin (`zoo`, `security-3`).

    What `--skip` leaves out is `unknown`, never silently absent. What `--only` leaves out is not asked: the report is partial and says so.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def asks(self, requirement: Requirement, check: Check) -> bool:
        """Whether `--only` leaves a check in for a requirement."""
        return not self.only or any(names(name.partition("@")[0], requirement, check) for name in self.only)

    def skips(self, requirement: Requirement, check: Check) -> bool:
        """Whether `--skip` leaves out a check for a requirement as a whole."""
        return any("@" not in name and names(name, requirement, check) for name in self.skip)

    def keeps(self, finding: Finding, requirement: Requirement, check: Check) -> bool:
        """Whether a finding of a check that is asked was selected."""
        return not self.only or any(name == finding.id or ("@" not in name and names(name, requirement, check)) for name in self.only)


def names(name: str, requirement: Requirement, check: Check) -> bool:
    """Whether a name is that of a requirement or a check, of its family, or how one of these begins, up to a separator."""
    return begins(f"{requirement.id}.{check.word}", name) or begins(check.id, name)


def begins(id: str, name: str) -> bool:  # noqa: A002  # the field's own word
    """Whether an id is a name, or begins with it up to a separator."""
    return id == name or (id.startswith(name) and id[len(name)] in "-._")


@dataclass(frozen=True, slots=True)
class Context:
    """What a report says of itself and that no check decides."""

    tool: Tool
    requirements_set: str
    device: DeviceSummary
    zoo: ZooUsed
    notes: tuple[str, ...] = ()
    judged_with: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)


def judge(
    facts: Facts,
    checks: Sequence[Check],
    requirements: Sequence[Requirement],
    waivers: Sequence[Waiver],
    today: datetime.date,
    selection: Selection,
    context: Context,
) -> Report:
    """The report on a device. `today` (UTC) decides which waivers are in force."""
    board = context.device.board
    applied = in_force(waivers, today, board)
    results = tuple(_result(facts, checks, requirement, selection, applied) for requirement in requirements)
    accelerators = facts.accelerators
    found = accelerators.value.items if isinstance(accelerators, Ok) else ()
    judged, runs = verdict(results, partial=bool(selection.only)), _model_runs(facts)
    return Report(
        tool=context.tool,
        requirements_set=context.requirements_set,
        zoo=context.zoo,
        device=context.device,
        accelerators=tuple(
            AcceleratorSummary(
                each.subject,
                each.bus,
                each.driver.value if isinstance(each.driver, Ok) else None,
                tuple(node.path for node in each.nodes),
                " ".join(f"{key} {value}" for key, value in each.ids.items()),
            )
            for each in found
        ),
        verdict=judged,
        counts=counts(results),
        requirements=results,
        model_runs=runs,
        notes=(*context.notes, *remarks(waivers, results, today, board)),
        partial=bool(selection.only),
        selection=selection.only,
        judged_with=context.judged_with,
        details=context.details,
        incomplete=_why_incomplete(judged, [_is_unbound(each.driver) for each in found], results, runs),
    )


def _is_unbound(driver: Fact[str]) -> bool:
    return isinstance(driver, Missing) and driver.status is Status.ABSENT


def _why_incomplete(
    judged: Verdict, unbound: Sequence[bool], results: Sequence[RequirementResult], runs: Sequence[ModelRun]
) -> Incomplete | None:
    """Why a verdict is incomplete; `unbound` says of each accelerator that was found whether no driver is bound to it."""
    if judged is not Verdict.INCOMPLETE:
        return None
    if all(unbound):
        return Incomplete.NO_DRIVER if unbound else Incomplete.NO_ACCELERATOR
    if not runs and any(each.model and each.selected and each.standing is Outcome.UNKNOWN for each in results):
        return Incomplete.NOTHING_MEASURED
    return Incomplete.UNDECIDED


def claimed(report: Report, claims: Sequence[Claim]) -> Report:
    """The report with what the vendor states beside the findings that it is about; nothing is decided by it."""
    known = {finding.id for result in report.requirements for finding in result.findings}
    notes = tuple(
        f"The vendor's statement on {printable(claim.finding)} is about no finding of this report."
        for claim in claims
        if not any(matches(claim.finding, each) for each in known)
    )
    results = tuple(
        replace(
            result,
            findings=tuple(
                replace(finding, claims=tuple(claim for claim in claims if matches(claim.finding, finding.id)))
                for finding in result.findings
            ),
        )
        for result in report.requirements
    )
    return replace(report, requirements=results, notes=(*report.notes, *notes))


def unwaived(report: Report) -> Report:
    """The report as it would be without waivers."""
    kept = tuple(note for note in report.notes if not note.startswith(("The waiver of ", "The waivers in force ")))
    return replace(_covered(report, lambda _finding: None), notes=(*kept, "Waivers were not applied."))


def waived(report: Report, waivers: Sequence[Waiver], today: datetime.date) -> Report:
    """The report as it would be with these waivers, and no others."""
    applied = in_force(waivers, today, report.device.board)
    return _covered(report, lambda finding: covering(applied, finding))


def _covered(report: Report, cover: Callable[[Finding], Waiver | None]) -> Report:
    results = []
    for result in report.requirements:
        findings = tuple(replace(finding, waiver=cover(finding)) for finding in result.findings)
        found, covered = outcome(findings, partial=report.partial)
        results.append(replace(result, findings=findings, outcome=found, waived=covered))
    judged = verdict(results, partial=report.partial)
    incomplete = _why_incomplete(judged, [each.driver is None for each in report.accelerators], results, report.model_runs)
    return replace(report, requirements=tuple(results), verdict=judged, counts=counts(results), incomplete=incomplete)


def _model_runs(facts: Facts) -> tuple[ModelRun, ...]:
    models = facts.models.value if isinstance(facts.models, Ok) else ()
    return tuple(run.value for each in models for run in each.runs if isinstance(run, Ok))


def verdict(results: Iterable[RequirementResult], *, partial: bool = False) -> Verdict:
    """The verdict over the `must` requirements; of a partial report, over those selected, and over `should` ones where only they are."""
    selected = [result for result in results if result.selected]
    decisive = [result for result in selected if result.level is Level.MUST] or (selected if partial else [])
    outcomes = {result.standing for result in decisive}
    if Outcome.FAIL in outcomes:
        return Verdict.NON_COMPLIANT
    if outcomes <= {Outcome.NOT_APPLICABLE} or outcomes & {Outcome.ERROR, Outcome.UNKNOWN}:
        return Verdict.INCOMPLETE
    return Verdict.COMPLIANT


def outcome(findings: Sequence[Finding], *, partial: bool = False) -> tuple[Outcome, bool]:
    """What a requirement's findings add up to, and whether it is waived (see RequirementResult).

    The `must` findings count; of a partial report, where --only names `should` checks alone, these do.
    """
    must = [finding for finding in findings if finding.level is Level.MUST] or (findings if partial else [])
    still = worst(Outcome.PASS if finding.waiver else finding.outcome for finding in must)
    waived = still is Outcome.PASS and any(finding.waiver for finding in must)
    return (worst(finding.outcome for finding in must) if waived else still), waived


def _result(
    facts: Facts, checks: Sequence[Check], requirement: Requirement, selection: Selection, waivers: Sequence[Waiver]
) -> RequirementResult:
    asked = [check for check in checks if check.requirement == requirement.family and selection.asks(requirement, check)]
    findings = _findings(facts, asked, requirement, selection)
    shown = tuple(replace(finding, waiver=covering(waivers, finding)) for finding in findings)
    found, waived = outcome(shown, partial=bool(selection.only))
    return RequirementResult(
        id=requirement.id,
        title=requirement.title,
        level=requirement.level,
        outcome=found,
        waived=waived,
        findings=shown,
        text=requirement.text,
        source=requirement.source,
        interpretation=requirement.interpretation,
        model=requirement.model,
        limits=requirement.limits,
        selected=bool(asked) or not selection.only,
    )


def _findings(facts: Facts, checks: Iterable[Check], requirement: Requirement, selection: Selection) -> tuple[Finding, ...]:
    """The findings of a requirement, each id once.

    What broke stays apart from what was found out about the same subject: a waiver of that must not cover it.
    """
    found: dict[tuple[str, bool], Finding] = {}
    for check in checks:
        for finding in _ask(facts, check, requirement, selection):
            at = finding.id, finding.outcome is Outcome.ERROR
            found[at] = _joined(found[at], finding) if at in found else finding
    return tuple(
        replace(finding, id=f"{name}#error", subject=f"{finding.subject}#error") if broke and (name, False) in found else finding
        for (name, broke), finding in found.items()
    )


def _joined(first: Finding, second: Finding) -> Finding:
    """Two answers of a check about one subject as one: the worse, with whatever else of the other a waiver of it would cover."""
    worse, other = (first, second) if worst((first.outcome, second.outcome)) is first.outcome else (second, first)
    if other.outcome is not worse.outcome and other.outcome not in WAIVABLE:
        return worse
    observed = "; ".join(dict.fromkeys((worse.observed, other.observed)))
    return replace(worse, observed=observed, evidence=tuple(dict.fromkeys((*worse.evidence, *other.evidence))))


def _ask(facts: Facts, check: Check, requirement: Requirement, selection: Selection) -> Iterator[Finding]:
    """The findings of one check for one requirement. Whatever breaks in a check is an `error` finding, and the audit goes on."""
    whole = f"model:{requirement.model}" if requirement.model else "device"
    try:
        for answer, subject in _asked(facts, check, requirement, selection, whole):
            finding = _finding(check, requirement, _refused_to_root(answer) if facts.plan.uid == 0 else answer, subject)
            if finding.id in selection.skip:
                finding = _finding(check, requirement, _LEFT_OUT, finding.subject)
            if selection.keeps(finding, requirement, check):
                yield finding
    except Exception as error:  # noqa: BLE001  # a plug-in may name facts that are none, or give what is no answer
        yield _finding(check, requirement, _broken(error), whole)


def _refused_to_root(answer: Answer) -> Answer:
    """The answer to root, whom it does not help to be told to become root."""
    if answer.remedy is not Remedy.ROOT:
        return answer
    return replace(answer, remedy=Remedy.EVIDENCE, remediation=answer.remediation or _ROOT_TOO)


def _finding(check: Check, requirement: Requirement, answer: Answer, subject: str) -> Finding:
    identity = f"{requirement.id}.{check.word}"
    sentence = check.sentences[answer.outcome]
    fallback = _HOW_TO[answer.remedy] if answer.remedy else check.remediation
    return Finding(
        id=f"{identity}@{answer.subject or subject}",
        check=identity,
        subject=answer.subject or subject,
        outcome=answer.outcome,
        level=check.level,
        observed=answer.observed,
        expected=check.expected,
        reason=answer.because or sentence,
        remediation=answer.remediation or fallback,
        owner=answer.owner or _owner(check, answer),
        waiver=None,
        evidence=tuple(dict.fromkeys(answer.evidence)),
        remedy=answer.remedy,
    )


def _owner(check: Check, answer: Answer) -> Owner:
    """Who can act: an unknown is the lab's to decide, unless it takes the vendor's word."""
    if answer.outcome is not Outcome.UNKNOWN:
        return check.owner
    return Owner.VENDOR if answer.remedy is Remedy.VENDOR else Owner.LAB


def _asked(facts: Facts, check: Check, requirement: Requirement, selection: Selection, whole: str) -> Iterator[tuple[Answer, str]]:
    """The answers of one check for one requirement, each with the subject it was asked about."""
    if selection.skips(requirement, check):
        yield _LEFT_OUT, whole
        return
    for need in check.needs:
        fact = getattr(facts, need)
        if isinstance(fact, Missing):
            yield _missing(fact), whole
            return
    if check.each in {None, "model"}:
        about = () if check.each is None else (requirement,)
        yield from ((answer, whole) for answer in _answers(facts, check, about))
        return
    fact = getattr(facts, str(check.each))
    if isinstance(fact, Missing):
        yield _missing(fact), whole
        return
    listing: Listing[Any] = fact.value
    for item in listing.items:
        yield from ((answer, item.subject) for answer in _answers(facts, check, (item,)))
    for place in listing.unread:
        where = place.evidence[0].path if place.evidence else "a place that could not be looked at"
        yield _missing(place), f"place:{where}"
    if check.level is Level.MUST:
        yield from ((_unrecognised(each), each.subject) for each in listing.unrecognised)
    if not listing.items and check.each in {"accelerators", "cores"} and not listing.unread and not listing.unrecognised:
        observed = f"no accelerator in {', '.join(item.path for item in listing.evidence)}"
        because = "No accelerator was found to judge."
        advice = (
            "Load the accelerator's driver on the device and audit it there, or name what it is: `--accelerator pci:0000:00:0b.0`, for one."
        )
        yield Answer(Outcome.UNKNOWN, observed, listing.evidence, because, remedy=Remedy.DRIVER, remediation=advice), whole


def _unrecognised(device: Unrecognised) -> Answer:
    """A device that may be an accelerator is in the way of every requirement of accelerators, until someone says what it is."""
    name = device.subject
    advice = f"Say what it is: `--accelerator {name}` audits it alone, `--not-an-accelerator {name}` says that it is none."
    if not device.alone:
        advice = f"Bind the driver of the device that does the work and audit again, or say that it is none: `--not-an-accelerator {name}`."
    because = "It is not known whether this device is an accelerator."
    observed = f"not recognised: {device.what}"
    return Answer(Outcome.UNKNOWN, observed, device.evidence, because, remedy=Remedy.WHAT_IT_IS, remediation=advice)


def _answers(facts: Facts, check: Check, about: tuple[Any, ...]) -> Iterator[Answer]:
    try:
        yield from check.judge(facts, *about)
    except MissingFact as error:
        yield _missing(error.missing)
    except Exception as error:  # noqa: BLE001  # the other items of the check are still asked about
        yield _broken(error)


def _broken(error: Exception) -> Answer:
    return Answer(Outcome.ERROR, printable(f"{type(error).__name__}: {error}")[:400])


def _missing(fact: Missing) -> Answer:
    if not fact.evidence:
        observed = fact.note or "not recorded"
        because = f"This cannot be decided: {observed}."
        return Answer(Outcome.UNKNOWN, observed, because=because, remedy=fact.remedy, remediation=fact.advice)
    where = fact.evidence[0].path
    how = _HOW_MISSING.get(fact.status, "could not be read")
    observed = f"{where} {how}" + (f": {fact.note}" if fact.note else "")
    advice = fact.advice or (None if fact.remedy else f"Audit the running device, or evidence that has {where}.")
    return Answer(
        Outcome.UNKNOWN, observed, fact.evidence, f"{where} {how}, so this cannot be decided.", remedy=fact.remedy, remediation=advice
    )


def counts(results: Iterable[RequirementResult]) -> dict[str, int]:
    """How many findings have each outcome; `waived` counts covered ones again."""
    findings = [finding for result in results for finding in result.findings]
    of_outcome = {each.value: sum(finding.outcome is each for finding in findings) for each in Outcome}
    return {**of_outcome, "waived": sum(finding.waiver is not None for finding in findings)}

"""What a report adds up to for a person: the clauses in a tally, what is open by its cause, and whose move it is. Holds no format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.model import Finding, Incomplete, Level, Outcome, Owner, Remedy, Report, RequirementResult, Verdict
from reports.wording import binding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OPEN = frozenset({Outcome.FAIL, Outcome.UNKNOWN, Outcome.ERROR})
_WORST_FIRST = (Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN)
QUANTITIES = ("latency", "accuracy", "memory")
"""What is measured of each model of the zoo."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requirements of a level have each outcome. `open` ones are unknown or have an error; `waived` ones are counted apart."""

    passed: int
    failed: int
    open: int
    waived: tuple[str, ...]
    not_applicable: int
    unselected: int

    @property
    def total(self) -> int:
        """Of all requirements of the level that were selected."""
        return self.passed + self.failed + self.open + len(self.waived) + self.not_applicable


def tally(report: Report, level: Level) -> Tally:
    """The requirements of a level by what became of them."""
    results = [result for result in report.requirements if result.level is level]
    counted = [result for result in results if result.selected]
    outcomes = Counter(result.outcome for result in counted if not result.waived)
    return Tally(
        passed=outcomes[Outcome.PASS],
        failed=outcomes[Outcome.FAIL],
        open=outcomes[Outcome.UNKNOWN] + outcomes[Outcome.ERROR],
        waived=tuple(result.id for result in counted if result.waived),
        not_applicable=outcomes[Outcome.NOT_APPLICABLE],
        unselected=len(results) - len(counted),
    )


@dataclass(frozen=True, slots=True)
class Cause:
    """Findings that are open for one reason and have one fix; `first` tells their story."""

    outcome: Outcome
    findings: tuple[tuple[RequirementResult, Finding], ...]

    @property
    def first(self) -> Finding:
        """The finding that is shown for all."""
        return self.findings[0][1]

    @property
    def requirements(self) -> tuple[str, ...]:
        """The ids of the requirements that it keeps open, each once."""
        return tuple(dict.fromkeys(result.id for result, _ in self.findings))

    @property
    def binding(self) -> bool:
        """Whether it bears on the verdict."""
        return any(binding(result, finding) for result, finding in self.findings)


def open_findings(report: Report) -> Iterator[tuple[RequirementResult, Finding]]:
    """What fails, is unknown or has an error, and is not waived, with its requirement."""
    for result in report.requirements:
        for finding in result.findings:
            if finding.waiver is None and finding.outcome in OPEN:
                yield result, finding


def causes(found: Iterable[tuple[RequirementResult, Finding]]) -> tuple[Cause, ...]:
    """Open findings, those with one cause together, in their order. A failure is always told by itself, of whatever it is about."""
    groups: dict[tuple[object, ...], list[tuple[RequirementResult, Finding]]] = {}
    for result, finding in found:
        alike = (finding.outcome, finding.observed, finding.reason, finding.remediation, finding.owner, finding.remedy, finding.claims)
        groups.setdefault((*alike, binding(result, finding)), []).append((result, finding))
    return tuple(Cause(pairs[0][1].outcome, tuple(pairs)) for pairs in groups.values())


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, by one owner, and the requirements that wait for it; `fails` says that one of them fails."""

    fix: str
    owner: Owner
    fails: bool
    requirements: tuple[str, ...]


def actions(report: Report) -> tuple[Action, ...]:
    """What to do for the verdict, the most telling first: what makes failures go, then what decides the most requirements.

    An error is the auditor's own defect; nobody else can act on it.
    """
    groups: dict[tuple[str, Owner], list[tuple[RequirementResult, Finding]]] = {}
    for result, finding in open_findings(report):
        if (binding(result, finding) or (report.partial and not _has_binding(report))) and finding.outcome is not Outcome.ERROR:
            groups.setdefault((finding.remediation, finding.owner), []).append((result, finding))
    found = [
        Action(
            fix=fix,
            owner=owner,
            fails=any(finding.outcome is Outcome.FAIL for _, finding in pairs),
            requirements=tuple(dict.fromkeys(result.id for result, _ in pairs)),
        )
        for (fix, owner), pairs in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: (not each.fails, -len(each.requirements))))


def _has_binding(report: Report) -> bool:
    return any(binding(result, finding) for result in report.requirements for finding in result.findings)


@dataclass(frozen=True, slots=True)
class Share:
    """How much of what bears on the verdict waits for an owner: findings that fail, findings that are unknown."""

    owner: Owner
    failed: int
    unknown: int


def shares(report: Report) -> tuple[Share, ...]:
    """Of every owner who can act on something, how much."""
    failed: Counter[Owner] = Counter()
    unknown: Counter[Owner] = Counter()
    for result, finding in open_findings(report):
        if binding(result, finding) and finding.outcome is not Outcome.ERROR:
            (failed if finding.outcome is Outcome.FAIL else unknown)[finding.owner] += 1
    return tuple(Share(owner, failed[owner], unknown[owner]) for owner in Owner if failed[owner] or unknown[owner])


def verdict(report: Report) -> str:
    """The verdict in words, with what limits it."""
    stamps = [stamp for stamp, on in (("partial", report.partial), ("a demonstration", report.device.demonstration)) if on]
    return report.verdict.value.upper() + (f" ({', '.join(stamps)})" if stamps else "")


_BECAUSE: dict[Incomplete | None, str] = {
    Incomplete.NO_DRIVER: ": no driver is bound to the accelerator.",
    Incomplete.NOTHING_MEASURED: ": no model of the zoo was measured.",
}


def why(report: Report) -> str:
    """What the verdict rests on, in a sentence or two."""
    results = [result for result in report.requirements if result.level is Level.MUST and result.selected]
    failed = [result.id for result in results if result.standing is Outcome.FAIL]
    undecided = [result.id for result in results if result.standing in {Outcome.UNKNOWN, Outcome.ERROR}]
    total = len(results)
    if report.verdict is Verdict.NON_COMPLIANT and failed:
        text = f"{len(failed)} of {total} mandatory requirements {_verb(failed, 'fails', 'fail')}"
        return text + (f"; {len(undecided)} {_verb(undecided, 'is', 'are')} undecided." if undecided else ".")
    if report.verdict is Verdict.INCOMPLETE and not report.accelerators and not report.partial:
        return "No accelerator was found, so the requirements on accelerators could not be judged."
    if report.verdict is Verdict.INCOMPLETE and undecided:
        text = f"No mandatory requirement fails, but {len(undecided)} of {total} {_verb(undecided, 'is', 'are')} undecided"
        return text + _BECAUSE.get(report.incomplete, ".")
    if report.verdict is Verdict.COMPLIANT and total:
        waived = sum(result.waived for result in results)
        return f"All {total} mandatory requirements are met" + (f", {waived} of them by a waiver." if waived else " or do not apply.")
    return "No mandatory requirement was judged."


def _verb(items: list[str], one: str, many: str) -> str:
    return one if len(items) == 1 else many


def remedies(report: Report) -> Iterator[tuple[Remedy | None, int]]:
    """What would decide the unknowns, and how many of them."""
    counts = Counter(finding.remedy for _, finding in open_findings(report) if finding.outcome is Outcome.UNKNOWN)
    return ((remedy, counts[remedy]) for remedy in (*Remedy, None) if counts[remedy])


def model_of(result: RequirementResult) -> str:
    """The model that a requirement of the zoo is about; empty for another requirement."""
    return result.model or model_named(result.id)


def model_named(requirement: str) -> str:
    """The model of a zoo requirement's id, `zoo-<model>-<quantity>`; empty for another id."""
    name, _, quantity = requirement.partition("zoo-")[2].rpartition("-")
    return name if requirement.startswith("zoo-") and quantity in QUANTITIES else ""

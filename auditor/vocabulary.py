"""The ids that a person types: requirements, checks, findings, how the ids of several begin (`zoo`, `security-3`), lists with commas.

Every option and argument that takes an id takes all of these, and says what is near where it knows none.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.engine import begins, names
from auditor.errors import UsageError
from auditor.model import Check, Requirement, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from auditor.model import Finding, Report, RequirementResult


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids of a requirement set and of the checks: each requirement with each check that it needs."""

    pairs: tuple[tuple[Requirement, Check], ...]

    def matches(self, name: str) -> tuple[tuple[Requirement, Check], ...]:
        """What an id names; of a finding, its check."""
        return tuple(pair for pair in self.pairs if names(name.partition("@")[0], *pair))

    def split(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Ids that were given one by one or with commas between. A comma within a finding's subject, as in a file's path, stays."""
        return split(texts, lambda part: bool(self.matches(part)))

    def unknown(self, name: str) -> str:
        """One line on an id that names nothing, with what is near it."""
        check, at, _subject = name.partition("@")
        ids = {known for requirement, each in self.pairs for known in (requirement.id, f"{requirement.id}.{each.word}", each.id)}
        words = {known.split("-")[0] for known in ids} | {requirement.family for requirement, _check in self.pairs}
        which = "no such check" if at else "no such requirement, check or finding"
        return f"{visible(name)[:200]}: {which}{near(check, ids | words)}; `crosml-audit checks` lists them"


def split(texts: Iterable[str], known: Callable[[str], bool]) -> tuple[str, ...]:
    """Ids that were given one by one or with commas between; after an id with a subject, a comma counts before a known id alone."""
    return tuple(name for text in texts for name in _split(text, known))


def _split(text: str, known: Callable[[str], bool]) -> Iterator[str]:
    name, *rest = text.split(",")
    for part in rest:
        if "@" in name and not known(part.strip()):
            name += f",{part}"
        else:
            yield name.strip()
            name = part
    yield name.strip()


def find(report: Report, ids: Sequence[str], label: str) -> list[tuple[RequirementResult, Finding]]:
    """The findings of a report that ids name, each once. Raises UsageError, led by `label`, for an id that names none of them."""
    pairs = [(result, finding) for result in report.requirements for finding in result.findings]

    def named(name: str) -> list[tuple[RequirementResult, Finding]]:
        return [(result, finding) for result, finding in pairs if finding.id == name or ("@" not in name and begins(finding.check, name))]

    found: dict[str, tuple[RequirementResult, Finding]] = {}
    for name in split(ids, lambda part: bool(named(part))):
        if not named(name):
            known = {each for _, finding in pairs for each in (finding.id, finding.check)} | {result.id for result, _ in pairs}
            raise UsageError(visible(f"{label}: {name[:200]}: expected a finding of this report{near(name, known)}"))
        found |= {finding.id: (result, finding) for result, finding in named(name)}
    return list(found.values())


def vocabulary(requirements: Iterable[Requirement], checks: Sequence[Check]) -> Vocabulary:
    """The ids of requirements and of their checks."""
    return Vocabulary(tuple((each, check) for each in requirements for check in checks if check.requirement == each.family))


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known names that are nearest to one that is not; empty where none is near."""
    found = difflib.get_close_matches(name[:200].lower(), sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(visible, found))}?" if found else ""

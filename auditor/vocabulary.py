"""The ids that a person types: requirements, checks, findings, how the ids of several begin (`zoo`, `security-3`), lists with commas.

Every option and argument that takes an id takes all of these, and says what is near where it knows none.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.engine import names
from auditor.model import Check, Requirement, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids of a requirement set and of the checks: each requirement with each check that it needs."""

    pairs: tuple[tuple[Requirement, Check], ...]

    def matches(self, name: str) -> tuple[tuple[Requirement, Check], ...]:
        """What an id names; of a finding, its check."""
        return tuple(pair for pair in self.pairs if names(name.partition("@")[0], *pair))

    def split(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Ids that were given one by one or with commas between. A comma within a finding's subject, as in a file's path, stays."""
        return tuple(name for text in texts for name in self._split(text))

    def _split(self, text: str) -> Iterator[str]:
        name, *rest = text.split(",")
        for part in rest:
            if "@" in name and not self.matches(part.strip()):
                name += f",{part}"
            else:
                yield name.strip()
                name = part
        yield name.strip()

    def unknown(self, name: str) -> str:
        """One line on an id that names nothing, with what is near it."""
        check, at, _subject = name.partition("@")
        ids = {known for requirement, each in self.pairs for known in (requirement.id, f"{requirement.id}.{each.word}", each.id)}
        words = {known.split("-")[0] for known in ids} | {requirement.family for requirement, _check in self.pairs}
        which = "no such check" if at else "no such requirement, check or finding"
        return f"{visible(name)[:200]}: {which}{near(check, ids | words)}; `crosml-audit checks` lists them"


def vocabulary(requirements: Iterable[Requirement], checks: Sequence[Check]) -> Vocabulary:
    """The ids of requirements and of their checks."""
    return Vocabulary(tuple((each, check) for each in requirements for check in checks if check.requirement == each.family))


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known names that are nearest to one that is not; empty where none is near."""
    found = difflib.get_close_matches(name[:200].lower(), sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(visible, found))}?" if found else ""

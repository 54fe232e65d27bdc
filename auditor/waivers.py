"""Waivers: which finding one covers, what is to be said of each, and a first draft of a file. Pure; the file is read by `auditor.codec`.

A waiver names a finding, or a pattern of them: `*` stands for any characters, `?` for one. `security-3.reserved@*` is a check on every
device; `board` narrows it to boards whose name matches. It is in force up to and including the day `expires`, in UTC.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

from auditor.model import Level, Outcome, Waiver, printable, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from auditor.model import Finding, Report, RequirementResult

WAIVABLE = frozenset({Outcome.FAIL, Outcome.UNKNOWN})
SOON = datetime.timedelta(days=30)
"""Before its end, a waiver is said to expire soon."""
DRAFTED = datetime.timedelta(days=90)
"""How long a drafted waiver is in force."""


@dataclass(frozen=True, slots=True)
class State:
    """What is to be said of one waiver on a day. `remark` is a sentence; empty where all is well."""

    waiver: Waiver
    remark: str
    wrong: bool
    """Whether it needs attention now: expired, unused, too broad, or for another board."""

    @property
    def name(self) -> str:
        """What it names: a finding or a pattern, and the board."""
        return _name(self.waiver)


def in_force(waivers: Iterable[Waiver], today: datetime.date, board: str) -> tuple[Waiver, ...]:
    """The waivers that may cover a finding of a board on a day (UTC); those that name one finding before patterns."""
    found = (waiver for waiver in waivers if today <= waiver.expires and _of_board(waiver, board))
    return tuple(sorted(found, key=lambda waiver: is_pattern(waiver.finding)))


def covering(waivers: Iterable[Waiver], finding: Finding) -> Waiver | None:
    """The first of some waivers in force that covers a finding."""
    if finding.outcome not in WAIVABLE:
        return None
    return next((waiver for waiver in waivers if matches(waiver.finding, finding.id)), None)


def matches(pattern: str, finding: str) -> bool:
    """Whether a waiver's `finding` names a finding: it is its id, or a pattern that fits."""
    return pattern == finding or (is_pattern(pattern) and _compiled(pattern).match(finding) is not None)


def is_pattern(name: str) -> bool:
    """Whether a name may fit several findings."""
    return "*" in name or "?" in name


def names_a_check(pattern: str) -> bool:
    """Whether a pattern says more before its `@` than that anything will do."""
    return bool(re.search(r"[A-Za-z0-9]", pattern.partition("@")[0]))


def names_one_check(pattern: str) -> bool:
    """Whether a pattern has the word of a check before its `@`: what it covers is then of one kind."""
    check, at, _ = pattern.partition("@")
    word = check.rpartition(".")[2] if "." in check else ""
    return bool(at) and bool(re.search(r"[A-Za-z0-9]", word))


def states(
    waivers: Sequence[Waiver], results: Iterable[RequirementResult] | None, today: datetime.date, board: str = ""
) -> Iterator[State]:
    """What is to be said of each waiver; `results` are those of a report that they were applied to, None where there is none."""
    found, partial = None, False
    if results is not None:
        results = tuple(results)
        found, partial = [finding for result in results for finding in result.findings], not all(result.selected for result in results)
    for waiver in waivers:
        yield _state(waiver, found, today, board, partial=partial)


def remarks(waivers: Sequence[Waiver], results: Sequence[RequirementResult], today: datetime.date, board: str) -> Iterator[str]:
    """The notes of a report on its waivers."""
    if any(finding.waiver for result in results for finding in result.findings):
        yield f"The waivers in force are those of {today.isoformat()}."
    yield from (state.remark for state in states(waivers, results, today, board) if state.remark)


def draft(report: Report, today: datetime.date) -> str:
    """A waivers file (TOML) with an entry for each `must` finding that fails and no waiver covers.

    Reason and author are empty: such a file is refused until a person has filled them in.
    """
    lines = ["# Waivers for what fails. Fill in reason and author, or delete the entry: an empty one is refused.", ""]
    for result in report.requirements:
        for finding in result.findings:
            if finding.outcome is Outcome.FAIL and not finding.waiver and Level.MUST is result.level is finding.level:
                lines += _entry(finding, report.device.board, today + DRAFTED)
    return "\n".join(lines) + "\n"


def _entry(finding: Finding, board: str, expires: datetime.date) -> Iterator[str]:
    yield f"# {visible(finding.observed)[:200]}"
    yield f"# fix ({finding.owner.value}): {visible(finding.remediation)[:200]}"
    yield "[[waiver]]"
    yield f"finding = {_quoted(finding.id)}"
    if board:
        yield f"board = {_quoted(board)}"
    yield 'reason = ""'
    yield 'author = ""'
    yield 'ticket = ""'
    yield f"expires = {expires.isoformat()}"
    yield ""


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are among TOML's, but for surrogates."""
    return json.dumps(printable(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _state(waiver: Waiver, found: list[Finding] | None, today: datetime.date, board: str, *, partial: bool) -> State:
    name = _name(waiver)
    if waiver.expires < today:
        return State(waiver, f"The waiver of {name} expired on {waiver.expires.isoformat()} and covers nothing.", wrong=True)
    if found is not None and not _of_board(waiver, board):
        reason = f"this board is {printable(board)}" if board else "the board is not known"
        return State(waiver, f"The waiver of {name} covers nothing: {reason}.", wrong=True)
    if found is not None:
        covered = [finding.check for finding in found if finding.waiver == waiver]
        if not covered and any(finding.waiver and matches(waiver.finding, finding.id) for finding in found):
            return State(waiver, f"The waiver of {name} covers nothing: another one covers what it names.", wrong=True)
        if not covered and not partial:  # what was not asked may well need it
            return State(waiver, f"The waiver of {name} matches no failed or unknown finding.", wrong=True)
        if len(set(covered)) > 1:
            several = f"it covers {len(covered)} findings of {len(set(covered))} checks"
            return State(waiver, f"The waiver of {name} is too broad: {several}. Write one for each check.", wrong=True)
    if is_pattern(waiver.finding) and not names_one_check(waiver.finding):
        return State(waiver, f"The waiver of {name} is too broad: expected the word of a check before the @.", wrong=True)
    if waiver.expires - today <= SOON:
        last = f"{waiver.expires.isoformat()} is the last day that it is in force"
        return State(waiver, f"The waiver of {name} expires soon: {last}.", wrong=False)
    return State(waiver, "", wrong=False)


def _name(waiver: Waiver) -> str:
    return printable(waiver.finding) + (f" on {printable(waiver.board)}" if waiver.board else "")


def _of_board(waiver: Waiver, board: str) -> bool:
    return not waiver.board or matches(waiver.board, board)


@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression that does not backtrack; a bracket is a bracket."""
    return re.compile(translate(pattern.replace("[", "[[]")))

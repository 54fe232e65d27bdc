"""Where a series of latencies changed its level: told from noise by a rank test against the last good runs.

A night's processes share the night (a temperature, a neighbour, a clock), so they are not independent of each other, and a rank test over
processes alone takes every night for a change. A change is named where three things hold for a night and those that follow it:

* the rank test of their processes against those of the last good runs gives less than `RANK_ERROR`;
* the mean of their nights lies outside what nights differ by: a prediction interval of `NIGHT_ERROR`, from the spread of the good nights;
* it is more than `SMALLEST`, as a share.

One night alone is a suspect: it takes `CONFIRMED` nights to name it. The night that is named is the one which divides the nights best.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.statistics import rank_test, t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GOOD = 20
"""The last good runs that a night is held against, at most."""
FEWEST = 8
"""And at least: with fewer, nothing is known of how nights differ."""
WINDOW = 5
"""Nights after a change that are looked at to name it."""
CONFIRMED = 2
RANK_ERROR = 1e-3
NIGHT_ERROR = 3e-5
"""How often a night and those after it are taken for a change that are none. Thirty nights are looked at some hundred times, which are not
independent; tests/auditor/history/test_regressions.py draws what that comes to."""
STEADY = 0.5
"""Each night after a change lies at least this share of the way to the new level: a single bad night is no level."""
SMALLEST = 0.01
"""A change of less, as a share, is of no interest however sure it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """A series changed its level with run `at` (its index), by `share` of the level before; `confirmed` by the runs after it."""

    at: int
    share: float
    rank: float
    """Probability that the rank test gives of ranks so far apart, were there no change."""
    confirmed: bool

    @property
    def slower(self) -> bool:
        """Whether it is a regression."""
        return self.share > 0


def find_changes(nights: Sequence[Sequence[float]]) -> Iterator[Change]:
    """The changes in a series of runs, the first first. Each run has the means of its processes (any unit, above zero); it may have none.

    A suspect, which is not confirmed, is only ever the last run with values.
    """
    known = [index for index, night in enumerate(nights) if night]
    logs = [[math.log(value) for value in nights[index]] for index in known]
    start, end = 0, FEWEST
    while end < len(logs):
        found = _first(logs, start, end)
        if found is None:
            return
        at, change = found
        yield Change(known[at], *change)
        start, end = at, at + FEWEST


def _first(logs: Sequence[Sequence[float]], start: int, end: int) -> tuple[int, tuple[float, float, bool]] | None:
    """The first change after `end` in a series that has one level from `start` on: its index, share, rank probability, confirmed."""
    levels = [statistics.median(night) for night in logs]
    for last in range(end, len(logs)):
        windows = range(max(end, last - WINDOW + 1), last - CONFIRMED + 2)
        found = next((test for at in windows if (test := _test(logs, levels, start, at, last))), None)
        if found:
            base, until = max(start, last - WINDOW - GOOD), min(len(logs) - 1, last + WINDOW - CONFIRMED)
            around = range(max(start + 1, last - WINDOW + 1), last + 1)
            at = max(around, key=lambda at: _gain(levels[base : until + 1], at - base))
            return at, (*(_test(logs, levels, start, at, until) or found), True)
    last = len(logs) - 1
    suspect = _test(logs, levels, start, last, last)
    return (last, (*suspect, False)) if suspect else None


def _test(logs: Sequence[Sequence[float]], levels: Sequence[float], start: int, at: int, last: int) -> tuple[float, float] | None:
    """Whether the runs from `at` to `last` have another level than the good ones before: the share and the rank probability; else None."""
    first = max(start, at - GOOD)
    before, after = levels[first:at], levels[at : last + 1]
    if len(before) < FEWEST:
        return None
    shift = statistics.fmean(after) - statistics.fmean(before)
    share = math.expm1(shift)
    if abs(share) < SMALLEST:
        return None
    if any((each - statistics.fmean(before)) / shift < STEADY for each in after):
        return None
    bound = t_quantile(1 - NIGHT_ERROR / 2, len(before) - 1) * statistics.stdev(before) * math.sqrt(1 / len(after) + 1 / len(before))
    if abs(shift) <= bound:
        return None
    good = [value for night in logs[first:at] for value in night]
    rank = rank_test([value for night in logs[at : last + 1] for value in night], good)
    return (share, rank) if rank < RANK_ERROR else None


def _gain(levels: Sequence[float], at: int) -> float:
    """How much better two levels explain a series than one, where the second begins `at`: the sum of squares that it takes away."""
    count, after = len(levels), len(levels) - at
    if not 0 < at < count:
        return 0.0
    shift = statistics.fmean(levels[at:]) - statistics.fmean(levels[:at])
    return shift * shift * at * after / count

"""What stands out in the history of a device: the list of its runs, trends of latency, findings that flap, what came with what."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.history.regressions import Change, find_changes
from auditor.statistics import student_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from auditor.history.store import Entry

FLAPS = 2
"""Changes of a finding's outcome, without a change of the device, from which on it flaps."""
SHORT = 12
"""Characters of a digest that are shown."""
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 60


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a trend: milliseconds, the ends of the interval of the mean where it has one."""

    at: str
    mean: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Trend:
    """The latency of one model on one device. A change's `at` is an index of `points`."""

    device: str
    model: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Flap:
    """A finding whose outcome changed although nothing of the device did."""

    device: str
    finding: str
    changes: int
    runs: int
    outcomes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a device's audit came to anew in one run, and the `traits` that changed in it: a name, the value it had, the value it has."""

    device: str
    at: str
    before: str
    what: str
    traits: tuple[tuple[str, str, str], ...]


def trends(entries: Sequence[Entry]) -> Iterator[Trend]:
    """The trends of a device, a model each."""
    for model in sorted({model for each in entries for model in each.latencies}):
        measured = [each for each in entries if each.latencies.get(model)]
        points = []
        for each in measured:
            interval = student_interval(each.latencies[model], 0.95)
            ends = interval.count > 1
            low, high = (interval.low / 1e3, interval.high / 1e3) if ends else (None, None)
            points.append(Point(each.at, interval.mean / 1e3, low, high, each.verdict))
        changes = tuple(find_changes([each.latencies[model] for each in measured]))
        yield Trend(measured[0].device, model, tuple(points), changes)


def spark(values: Sequence[float]) -> str:
    """The last values as a line of bars."""
    shown = values[-_SPARKS:]
    low, high = min(shown), max(shown)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] for value in shown)


def told(trend: Trend) -> Iterator[str]:
    """A trend in lines."""
    last = trend.points[-1]
    ends = "" if last.low is None or last.high is None else f" ({last.low:.3f} to {last.high:.3f})"
    yield f"{trend.device}  {trend.model}  {len(trend.points)} runs, last {last.mean:.3f} ms{ends}"
    values = [each.mean for each in trend.points]
    yield f"    {spark(values)}  {min(values[-_SPARKS:]):.3f} to {max(values[-_SPARKS:]):.3f} ms"
    for change in trend.changes:
        yield f"    {trend.points[change.at].at}: {describe(change)}"


def describe(change: Change) -> str:
    """A change in words."""
    kind = "slower" if change.slower else "faster"
    word = ("regression" if change.slower else "improvement") if change.confirmed else "suspect: one more run decides"
    return f"{word}: {abs(change.share):.1%} {kind} than the runs before (rank test p = {change.rank:.1g})"


def flaps(entries: Sequence[Entry]) -> Iterator[Flap]:
    """The findings of a device whose outcome changed `FLAPS` times or more between runs in which nothing of the device changed."""
    changes: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for each in entries:
        for name, outcome in each.findings.items():
            outcomes[name][outcome] += 1
    for before, after in itertools.pairwise(entries):
        if all(before.traits[name] == after.traits[name] for name in before.traits.keys() & after.traits.keys()):
            common = before.findings.keys() & after.findings.keys()
            changes.update(name for name in common if before.findings[name] != after.findings[name])
    for name, count in sorted(changes.items(), key=lambda item: (-item[1], item[0])):
        if count >= FLAPS:
            seen = outcomes[name]
            yield Flap(entries[0].device, name, count, sum(seen.values()), tuple(sorted(seen.items())))


def turns(entries: Sequence[Entry]) -> Iterator[Turn]:
    """Each run of a device that came to something else than the one before: its verdict, a finding, a latency."""
    slower: dict[str, list[str]] = defaultdict(list)
    for trend in trends(entries):
        for change in trend.changes:
            slower[trend.points[change.at].at].append(f"{trend.model}: {describe(change)}")
    for before, after in itertools.pairwise(entries):
        traits = tuple(_changed(before.traits, after.traits))
        said = [] if before.verdict == after.verdict else [f"verdict: {before.verdict}, now {after.verdict}"]
        for name, was, became in _changed(before.findings, after.findings):
            if name in before.findings and name in after.findings:
                said.append(f"{name}: {was}, now {became}")
        for what in said + slower.pop(after.at, []):
            yield Turn(after.device, after.at, before.at, what, traits)


def blame(found: Iterable[Turn]) -> list[tuple[str, tuple[Turn, ...]]]:
    """The changes that came with something new, by how many devices they did it on; an empty name has what came with no change."""
    by: dict[str, list[Turn]] = defaultdict(list)
    for turn in found:
        for name, was, became in turn.traits or (("", "", ""),):
            by[f"{name}: {short(was)}, now {short(became)}" if name else ""].append(turn)
    order = sorted(by, key=lambda name: (not name, -len({turn.device for turn in by[name]}), name))
    return [(name, tuple(by[name])) for name in order]


def short(value: str) -> str:
    """A trait's value; of a digest, the beginning."""
    is_digest = len(value) == 64 and all(char in "0123456789abcdef" for char in value)
    return value[:SHORT] if is_digest else value


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield name, old.get(name, "none"), new.get(name, "none")

"""The trend page: a drawing for each model of each device, those that changed first. One file, no script, loads nothing.

However many devices there are, the page stays below a megabyte: what has no room for a drawing has a line, and the rest is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.history.views import describe, spark
from auditor.model import visible
from auditor.pages import template

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.history.views import Trend

DRAWN_BYTES = 600_000
LINED_BYTES = 250_000
POINTS = 120
"""Runs that a drawing shows, the last ones."""
WIDTH, HEIGHT = 640, 120
_LEFT, _TOP, _BOTTOM = 4.0, 8.0, 112.0


@dataclass(frozen=True, slots=True)
class _Mark:
    x: float
    slower: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Drawing:
    device: str
    model: str
    said: str
    line: str
    band: str
    """The intervals of the means, as one polygon; empty where a run has none."""
    marks: tuple[_Mark, ...]
    low: str
    high: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class _Line:
    device: str
    model: str
    bars: str
    last: str


def render(trends: Iterable[Trend]) -> str:
    """The page."""
    ordered = sorted(
        trends, key=lambda each: (not any(change.slower for change in each.changes), not each.changes, each.device, each.model)
    )
    drawn: list[_Drawing] = []
    lined: list[_Line] = []
    used = lines = 0
    for trend in ordered:
        if used < DRAWN_BYTES:
            drawing = _drawing(trend)
            used += 900 + len(drawing.line) + len(drawing.band) + 6 * (len(trend.device.encode()) + len(trend.model.encode()))
            drawn.append(drawing)
        elif lines < LINED_BYTES:
            line = _Line(
                visible(trend.device), visible(trend.model), spark([each.mean for each in trend.points]), f"{trend.points[-1].mean:.3f}"
            )
            lines += 60 + 3 * len(line.bars) + 6 * (len(trend.device.encode()) + len(trend.model.encode()))
            lined.append(line)
    regressed = sum(any(change.slower and change.confirmed for change in each.changes) for each in ordered)
    return template("auditor.history", "trend.html").render(
        count=len(ordered),
        regressed=regressed,
        drawn=drawn,
        lined=lined,
        omitted=len(ordered) - len(drawn) - len(lined),
        width=WIDTH,
        height=HEIGHT,
    )


def _drawing(trend: Trend) -> _Drawing:
    skipped = max(0, len(trend.points) - POINTS)
    points = trend.points[skipped:]
    means = [each.mean for each in points]
    span = max(means) - min(means) or abs(means[0]) or 1.0
    low, high = min(means) - span / 4, max(means) + span / 4
    step = (WIDTH - 2 * _LEFT) / max(1, len(points) - 1)

    def place(index: int, value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low) if math.isfinite(value) else 0.5
        return f"{_LEFT + index * step:.1f},{_BOTTOM - share * (_BOTTOM - _TOP):.1f}"

    above = [place(index, each.high) for index, each in enumerate(points) if each.high is not None]
    below = [place(index, each.low) for index, each in enumerate(points) if each.low is not None]
    whole = len(above) == len(below) == len(points)
    marks = tuple(
        _Mark(round(_LEFT + (change.at - skipped) * step, 1), change.slower, visible(f"{trend.points[change.at].at}: {describe(change)}"))
        for change in trend.changes
        if change.at >= skipped
    )
    return _Drawing(
        visible(trend.device),
        visible(trend.model),
        f"{len(points)} runs, {min(means):.3f} to {max(means):.3f} ms, last {means[-1]:.3f} ms",
        " ".join(place(index, value) for index, value in enumerate(means)),
        " ".join([*above, *reversed(below)]) if whole else "",
        marks,
        f"{low:.3f}",
        f"{high:.3f}",
        visible(points[0].at),
        visible(points[-1].at),
    )

"""Statistics of measurements: the interval of a mean over processes, the verdict against a limit, errors pooled over runs.

Standard library only. Inferences of one process are not independent (they share its memory layout, its clock speed, its neighbours),
so the interval is over the means of fresh processes.
"""

from __future__ import annotations

import enum
import math
import statistics
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONFIDENCE = 1 - 0.05 / 7
"""Of each interval: the verdict may be looked at after 3 to 9 processes, seven times, and may err 5 % of the time in all (Bonferroni)."""

_ITERATIONS = 300
_TINY = 1e-300


class Verdict(enum.Enum):
    """Where a mean lies against its limit."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided Student interval of a mean. One value alone has an infinite one."""

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the interval it rests on, and, while undecided, how many further processes would decide it.

    `further` is None where no number within the bound would, or the verdict stands.
    """

    verdict: Verdict
    interval: Interval
    further: int | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """Errors of several runs as inference_diff sums them up: mean and population standard deviation between runs."""

    runs: int
    mean: float
    deviation: float


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution. Raises ValueError outside 0 < probability < 1, freedom >= 1."""
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"t quantile of probability {probability} with {freedom} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    # with x = freedom / (freedom + t^2), the upper tail is half the incomplete beta function at x, which grows with x
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if _incomplete_beta(freedom / 2, 0.5, middle) < tail:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom * (1 - high) / high)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) (DLMF 8.17.22, Lentz's evaluation)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    value, c, d = 1.0, 1.0, 0.0
    for step in range(_ITERATIONS):
        half = step // 2
        if step == 0:
            factor = 1.0
        elif step % 2 == 0:
            factor = half * (b - half) * x / ((a + step - 1) * (a + step))
        else:
            factor = -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))
        d = 1 / _nonzero(1 + factor * d)
        c = _nonzero(1 + factor / c)
        value *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return math.exp(log_front) / a * (value - 1)


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def student_interval(means: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the interval of the mean of `means`, each the mean of one process; NaN if one is. Raises ValueError without any."""
    if not means:
        raise ValueError("an interval of no means")
    if not all(map(math.isfinite, means)):
        return Interval(math.nan, math.inf, len(means))
    if len(means) == 1:
        return Interval(means[0], math.inf, 1)
    half = _t(len(means), confidence) * statistics.stdev(means) / math.sqrt(len(means))
    return Interval(statistics.fmean(means), half, len(means))


def _t(count: int, confidence: float) -> float:
    return t_quantile((1 + confidence) / 2, count - 1)


def decide(means: Sequence[float], limit: float, confidence: float = 0.95, most: int = 100) -> Decision:
    """Judge whether the mean over processes is at most `limit`: met or missed once the whole interval is on one side.

    `most` bounds the further processes looked at; the estimate takes it that mean and spread stay as they are. A NaN is never met.
    """
    interval = student_interval(means, confidence)
    if interval.high <= limit:
        return Decision(Verdict.MET, interval)
    if interval.low > limit:
        return Decision(Verdict.MISSED, interval)
    return Decision(Verdict.UNDECIDED, interval, _further(means, limit, confidence, most))


def _further(means: Sequence[float], limit: float, confidence: float, most: int) -> int | None:
    if not all(map(math.isfinite, means)):
        return None
    if len(means) == 1:
        return 1  # nothing is known of the spread before a second one
    margin, deviation = abs(limit - statistics.fmean(means)), statistics.stdev(means)

    def decides(further: int) -> bool:
        count = len(means) + further
        return _t(count, confidence) * deviation / math.sqrt(count) < margin

    further = 1 + bisect_left(range(1, most + 1), True, key=decides)
    return further if further <= most else None


def spread(errors: Iterable[float]) -> Spread:
    """Return mean and population deviation of the runs' errors; NaN in any gives NaN in both. Raises ValueError without any."""
    values = list(errors)
    if not values:
        raise ValueError("the spread of no runs")
    mean = math.fsum(values) / len(values)
    return Spread(len(values), mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)))


def pool(parts: Sequence[Spread]) -> Spread:
    """Return the spread over all runs of several processes, as if they were one. Raises ValueError without any run."""
    runs = sum(part.runs for part in parts)
    if runs == 0:
        raise ValueError("the pooled spread of no runs")
    mean = math.fsum(part.runs * part.mean for part in parts) / runs
    variance = math.fsum(part.runs * (part.deviation**2 + (part.mean - mean) ** 2) for part in parts) / runs
    return Spread(runs, mean, math.sqrt(variance))


def within(value: float | None, limit: float) -> bool:
    """Tell whether a measured value keeps a limit: a missing value or a NaN does not."""
    return value is not None and value <= limit

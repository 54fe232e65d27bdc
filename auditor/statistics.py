"""Statistics of measurements: the interval of a mean over processes, the verdict against a limit, errors pooled over runs.

Standard library only. Inferences of one process are not independent (they share its memory layout, its clock speed, its neighbours),
so the interval is over the means of fresh processes.
"""

from __future__ import annotations

import enum
import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOKS = range(3, 10)
"""Numbers of processes after which the verdict is looked at; no more are measured once it stands."""

ERROR = 0.05
"""How often a verdict may be wrong, all looks together."""

CONFIDENCE = 1 - ERROR / len(LOOKS)
"""Of the two-sided interval at each look: every look spends the same (Bonferroni), and what the record of n processes is judged by is
what stopped the measurement at n."""

WIDENING = 1.25
"""What the interval at a look is widened by, because processes that follow each other share their neighbours' load and are alike: the error
stays within 5 % up to a lag-one correlation of 0.5 (4.9 %; without it, 8.5 %; benchmarks/study.py saw 0.4 to 0.7 on a busy machine), and
of independent normal processes 0.7 % are judged wrongly, whichever of the two verdicts is the wrong one (tests/auditor/test_statistics.py
draws both)."""

DRIFT_CONFIDENCE = 0.99
"""Of the interval that a drift must leave zero out of to be more than noise."""

MOST_FURTHER = 1000
"""Further processes that are looked at to say how many would decide; where more are needed, the mean is at the limit."""

EXACT = 20_000
"""Orders of two samples that the rank test counts one by one; of more, it uses the normal approximation."""

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
class Drift:
    """How times change while they are measured, where it is more than noise: shares, 0 for none.

    `within` is from the first third of a process's inferences to the last third, `across` from the first process to the last (of a line
    fitted to their means, as a share of the mean), `late` what the last third in the last process has over the mean of all.
    """

    within: float = 0.0
    across: float = 0.0
    late: float = 0.0


NO_DRIFT = Drift()


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


def student_interval(means: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of the mean of `means`, each the mean of one process; NaN if one is. Raises ValueError without any."""
    if not means:
        raise ValueError("an interval of no means")
    if not all(map(math.isfinite, means)):
        return Interval(math.nan, math.inf, len(means))
    if len(means) == 1:
        return Interval(means[0], math.inf, 1)
    half = _t(len(means), confidence) * statistics.stdev(means) / math.sqrt(len(means))
    return Interval(statistics.fmean(means), half, len(means))


def look(means: Sequence[float]) -> Interval:
    """Return the interval that a verdict after so many processes rests on; `means` as for `student_interval`."""
    interval = student_interval(means)
    return Interval(interval.mean, WIDENING * interval.half_width, interval.count)


def _t(count: int, confidence: float) -> float:
    return t_quantile((1 + confidence) / 2, count - 1)


def find_drift(means: Sequence[float], thirds: Sequence[tuple[float, float, float]]) -> Drift:
    """Return what the processes' means, in their order, and the means of the thirds of each say of a drift.

    Processes are what is independent, so the change within one is held against how it differs between them, and the change from one to
    the next against how the means lie about the line. `thirds` may be empty: then nothing is known of what happens within a process.
    """
    within = late = across = 0.0
    if len(thirds) >= LOOKS.start and all(third > 0 and math.isfinite(third) for each in thirds for third in each):
        changes = student_interval([last / first - 1 for first, _, last in thirds], DRIFT_CONFIDENCE)
        if changes.low > 0 or changes.high < 0:
            within = changes.mean
            late = statistics.fmean(last / statistics.fmean((first, middle, last)) for first, middle, last in thirds) - 1
    if len(means) >= LOOKS.start and all(mean > 0 and math.isfinite(mean) for mean in means):
        mean, middle = statistics.fmean(means), (len(means) - 1) / 2
        squares = math.fsum((index - middle) ** 2 for index in range(len(means)))
        slope = math.fsum((index - middle) * each for index, each in enumerate(means)) / squares
        left = math.fsum((each - mean - slope * (index - middle)) ** 2 for index, each in enumerate(means))
        if abs(slope) > t_quantile((1 + DRIFT_CONFIDENCE) / 2, len(means) - 2) * math.sqrt(left / (len(means) - 2) / squares):
            across = slope * 2 * middle / mean
            late = (1 + late) * (1 + slope * middle / mean) - 1
    return Drift(within, across, late)


def judge(own: Interval, outside: Interval, limit: float, drift: Drift = NO_DRIFT) -> Verdict:
    """Judge whether a mean over processes is at most `limit`, by two clocks: `own` never makes it met, `outside` never makes it missed.

    Met where the whole of `outside` is within the limit, missed where the whole of `own` is above it; either only where it also holds
    once the drift has done its work. Fewer processes than a first look needs decide nothing, nor does a NaN.
    """
    if min(own.count, outside.count) < LOOKS.start:
        return Verdict.UNDECIDED
    if own.low * min(1.0, 1 + drift.late) > limit:
        return Verdict.MISSED
    if outside.high * max(1.0, 1 + drift.late) <= limit:
        return Verdict.MET
    return Verdict.UNDECIDED


def further(own: Interval, outside: Interval, limit: float) -> int | None:
    """Return how many further processes would decide, if means and spreads stay as they are; at least as many as a first look needs.

    None where MOST_FURTHER would not: the mean is at the limit, or the two clocks lie on different sides of it.
    """
    least = max(1, LOOKS.start - own.count)
    if not all(map(math.isfinite, (own.half_width, outside.half_width))):
        return least if own.count == 1 else None  # nothing is known of the spread before a second one

    def decides(more: int) -> bool:
        return judge(_with_more(own, more), _with_more(outside, more), limit) is not Verdict.UNDECIDED

    needed = least + bisect_left(range(least, MOST_FURTHER + 1), True, key=decides)
    return needed if needed <= MOST_FURTHER else None


def _with_more(interval: Interval, more: int) -> Interval:
    """The interval if further processes have the same mean and spread."""
    count = interval.count + more
    narrower = _t(count, CONFIDENCE) / _t(interval.count, CONFIDENCE) * math.sqrt(interval.count / count)
    return Interval(interval.mean, interval.half_width * narrower, count)


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


CONFIRMED = 0.1
"""Of a limit on errors, the share within which a check on a few inputs of one's own need not tell which side of it a mean lies."""
MOST_INPUTS = 12
"""Inputs of one's own that are asked for at most: four in each of three processes."""
_ONE_IN_A_HUNDRED = 2.326
"""Quantile of the normal distribution for an error rate of 1 %."""


def inputs_needed(limit: float, deviation: float) -> int | None:
    """How many inputs tell a mean error at CONFIRMED below a limit from one as much above it, at 1 % of either error.

    `deviation` is the limit of the errors' deviation between inputs. None where it is so wide that MOST_INPUTS would not tell.
    """
    needed = math.ceil((_ONE_IN_A_HUNDRED * deviation / (CONFIRMED * limit)) ** 2) if limit > 0 else MOST_INPUTS + 1
    return max(1, needed) if needed <= MOST_INPUTS else None


def confirm(errors: Sequence[float], limit: float, deviation: float) -> Verdict:
    """Judge errors on inputs of one's own against a limit of the mean that another mean, over more inputs, was measured to keep.

    Errors of an honest delegate differ by up to `deviation` between inputs. With as many inputs as that takes, the mean is held against the
    limit. With fewer, or where no number that is ever asked for would do, it is missed where the mean lies beyond the limit by more than
    such a deviation explains, and met where the limit lies beyond the mean by more than the deviation explains that is allowed, or seen.
    """
    if not errors:
        return Verdict.UNDECIDED
    needed, mean = inputs_needed(limit, deviation), math.fsum(errors) / len(errors)
    if needed is not None and len(errors) >= needed:
        return Verdict.MET if mean <= limit else Verdict.MISSED
    root = math.sqrt(len(errors))
    if mean - _ONE_IN_A_HUNDRED * deviation / root > limit:
        return Verdict.MISSED
    if needed is None and len(errors) < MOST_INPUTS:
        return Verdict.UNDECIDED
    seen = deviation if needed else statistics.stdev(errors)
    return Verdict.MET if mean + _ONE_IN_A_HUNDRED * seen / root <= (1 + CONFIRMED) * limit else Verdict.UNDECIDED


def within(value: float | None, limit: float) -> bool:
    """Tell whether a measured value keeps a limit: a missing value or a NaN does not."""
    return value is not None and value <= limit


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided probability of the rank sum of two samples if they came from one distribution (Mann-Whitney; midranks for ties).

    Exact by counting all orders where there are few, else by the normal approximation with ties and continuity corrected.
    Source: Hollander, Wolfe, Chicken, Nonparametric Statistical Methods, 4.1.
    """
    if not first or not second:
        return 1.0
    joined = sorted((*first, *second))
    count, total = len(first), len(joined)
    centre = count * (total + 1) / 2
    ranks = {value: (bisect_left(joined, value) + bisect_right(joined, value) + 1) / 2 for value in joined}
    found = abs(sum(ranks[value] for value in first) - centre)
    if math.comb(total, count) <= EXACT:
        sums = [abs(sum(chosen) - centre) for chosen in itertools.combinations([ranks[value] for value in joined], count)]
        return sum(each >= found - 1e-9 for each in sums) / len(sums)
    ties = sum(size**3 - size for size in Counter(joined).values())
    variance = count * (total - count) / 12 * (total + 1 - ties / (total * (total - 1)))
    return math.erfc(max(0.0, found - 0.5) / math.sqrt(2 * variance)) if variance else 1.0

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.statistics import Spread, Verdict, decide, pool, spread, student_interval, t_quantile, within

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, critical values of Student's t distribution
TABLE = [
    *((0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 8, 2.306), (0.975, 30, 2.042)),
    *((0.90, 1, 3.078), (0.95, 5, 2.015), (0.99, 10, 2.764), (0.995, 20, 2.845), (0.999, 1, 318.313), (0.999, 100, 3.174)),
]

FINITE = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(("probability", "freedom", "value"), TABLE)
def test_quantiles_of_the_table(probability, freedom, value):
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=6e-4 if value < 100 else 6e-2)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-value, rel=1e-3)


def test_the_median_is_zero_and_many_degrees_are_normal():
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-6)
    assert t_quantile(0.975, 10**6) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-4)


@pytest.mark.parametrize(("probability", "freedom"), [(0, 1), (1, 1), (0.5, 0), (math.nan, 3)])
def test_quantiles_that_do_not_exist(probability, freedom):
    with pytest.raises(ValueError, match="quantile"):
        t_quantile(probability, freedom)


def test_an_interval_by_hand():
    interval = student_interval([4.0, 5.0, 6.0])
    assert interval.mean == 5
    assert interval.half_width == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert (interval.low, interval.high) == (interval.mean - interval.half_width, interval.mean + interval.half_width)


def test_one_mean_says_nothing_of_the_spread():
    assert student_interval([5.0]).half_width == math.inf
    decision = decide([5.0], 1000.0)
    assert (decision.verdict, decision.further) == (Verdict.UNDECIDED, 1)


def test_no_means():
    with pytest.raises(ValueError, match="no means"):
        student_interval([])


@pytest.mark.parametrize(("limit", "verdict"), [(10.0, Verdict.MET), (5.1, Verdict.UNDECIDED), (2.0, Verdict.MISSED)])
def test_verdicts(limit, verdict):
    assert decide([4.9, 5.0, 5.1], limit).verdict is verdict


def test_an_equal_mean_without_spread_meets_its_limit():
    assert decide([5.0, 5.0], 5.0).verdict is Verdict.MET


def sample(count, mean, deviation):
    """Values with exactly this mean and sample deviation."""
    pairs = count // 2
    offset = deviation * math.sqrt((count - 1) / (2 * pairs))
    return [mean + offset] * pairs + [mean - offset] * pairs + [mean] * (count % 2)


@pytest.mark.parametrize("limit", [5.02, 5.15, 4.9, 5.3])
def test_just_enough_further_processes(limit):
    decision = decide(sample(3, 5.0, 0.2), limit, most=1000)
    assert decision.verdict is Verdict.UNDECIDED
    assert decide(sample(3 + decision.further, 5.0, 0.2), limit).verdict is (Verdict.MET if limit > 5 else Verdict.MISSED)
    if decision.further > 1:
        assert decide(sample(2 + decision.further, 5.0, 0.2), limit).verdict is Verdict.UNDECIDED


def test_a_mean_at_its_limit_is_not_decidable():
    decision = decide([4.9, 5.1], 5.0, most=50)
    assert (decision.verdict, decision.further) == (Verdict.UNDECIDED, None)


@pytest.mark.parametrize("means", [[math.nan, 5.0], [5.0, math.nan, 5.0]])
def test_nan_is_never_met(means):
    decision = decide(means, 1e9)
    assert (decision.verdict, decision.further) == (Verdict.UNDECIDED, None)


@given(st.lists(st.floats(1, 1e3), min_size=2, max_size=9), st.floats(1, 1e3))
def test_a_tighter_limit_is_never_better(means, limit):
    order = [Verdict.MISSED, Verdict.UNDECIDED, Verdict.MET]
    assert order.index(decide(means, limit / 2).verdict) <= order.index(decide(means, limit).verdict)


def test_spread_as_inference_diff_has_it():
    assert spread([1.0, 3.0]) == Spread(2, 2.0, 1.0)
    with pytest.raises(ValueError, match="no runs"):
        spread([])


def test_nan_spoils_a_spread():
    spoiled = spread([1.0, math.nan])
    assert math.isnan(spoiled.mean)
    assert not within(spoiled.mean, 1e9)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=8), min_size=1, max_size=5))
def test_pooling_is_the_spread_of_all(parts):
    together = spread([value for part in parts for value in part])
    pooled = pool([spread(part) for part in parts])
    assert pooled.runs == together.runs
    assert pooled.mean == pytest.approx(together.mean, abs=1e-6)
    assert pooled.deviation == pytest.approx(together.deviation, rel=1e-6, abs=1e-3)


def test_pooling_nothing():
    with pytest.raises(ValueError, match="no runs"):
        pool([])


@pytest.mark.parametrize(("value", "kept"), [(1.0, True), (1.5, True), (1.6, False), (math.nan, False), (None, False), (math.inf, False)])
def test_within(value, kept):
    assert within(value, 1.5) is kept

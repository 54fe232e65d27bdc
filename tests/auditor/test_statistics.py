from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.statistics import (
    ERROR,
    LOOKS,
    MOST_FURTHER,
    NO_DRIFT,
    WIDENING,
    Drift,
    Interval,
    Spread,
    Verdict,
    confirm,
    find_drift,
    further,
    inputs_needed,
    judge,
    look,
    pool,
    rank_test,
    spread,
    student_interval,
    t_quantile,
    within,
)

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
    interval = student_interval([4.0, 5.0, 6.0], 0.95)
    assert interval.mean == 5
    assert interval.half_width == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert (interval.low, interval.high) == (interval.mean - interval.half_width, interval.mean + interval.half_width)


def one_clock(means, limit, drift=NO_DRIFT):
    """The verdict where both clocks say the same."""
    interval = look(means)
    return judge(interval, interval, limit, drift)


def needed(means, limit):
    interval = look(means)
    return further(interval, interval, limit)


def test_the_interval_at_a_look_is_a_widened_one():
    assert look([4.0, 5.0, 6.0]).half_width == pytest.approx(WIDENING * student_interval([4.0, 5.0, 6.0]).half_width)
    assert look([5.0]).half_width == math.inf


def test_one_mean_says_nothing_of_the_spread():
    assert student_interval([5.0]).half_width == math.inf
    assert one_clock([5.0], 1000.0) is Verdict.UNDECIDED
    assert needed([5.0], 1000.0) == 2


def test_fewer_than_a_first_look_needs_decide_nothing():
    assert one_clock([5.0, 5.0], 1000.0) is Verdict.UNDECIDED
    assert needed([5.0, 5.0], 1000.0) == 1
    assert one_clock([5.0, 5.0, 5.0], 1000.0) is Verdict.MET


def test_no_means():
    with pytest.raises(ValueError, match="no means"):
        student_interval([])


@pytest.mark.parametrize(("limit", "verdict"), [(10.0, Verdict.MET), (5.1, Verdict.UNDECIDED), (2.0, Verdict.MISSED)])
def test_verdicts(limit, verdict):
    assert one_clock([4.9, 5.0, 5.1], limit) is verdict


def test_an_equal_mean_without_spread_meets_its_limit():
    assert one_clock([5.0, 5.0, 5.0], 5.0) is Verdict.MET


def test_each_clock_decides_for_one_side_only():
    low, high = Interval(4.0, 0.1, 3), Interval(6.0, 0.1, 3)
    assert judge(low, high, 5.0) is Verdict.UNDECIDED
    assert further(low, high, 5.0) is None
    assert judge(high, low, 5.0) is Verdict.MISSED


def sample(count, mean, deviation):
    """Values with exactly this mean and sample deviation."""
    pairs = count // 2
    offset = deviation * math.sqrt((count - 1) / (2 * pairs))
    return [mean + offset] * pairs + [mean - offset] * pairs + [mean] * (count % 2)


@pytest.mark.parametrize("count", [3, 6, 9])
@pytest.mark.parametrize("limit", [5.03, 5.08, 4.9, 5.1])
def test_just_enough_further_processes(count, limit):
    more = needed(sample(count, 5.0, 0.2), limit)
    if one_clock(sample(count, 5.0, 0.2), limit) is not Verdict.UNDECIDED:
        return  # nine processes may decide for the widest margins
    assert one_clock(sample(count + more, 5.0, 0.2), limit) is (Verdict.MET if limit > 5 else Verdict.MISSED)
    if more > 1:
        assert one_clock(sample(count + more - 1, 5.0, 0.2), limit) is Verdict.UNDECIDED


@pytest.mark.parametrize("limit", [5.0, 5.0001])
def test_a_mean_at_its_limit_is_not_decidable(limit):
    assert one_clock([4.9, 5.0, 5.1], limit) is Verdict.UNDECIDED
    assert needed([4.9, 5.0, 5.1], limit) is None
    assert one_clock(sample(3 + MOST_FURTHER, 5.0, 0.1), limit) is Verdict.UNDECIDED


@pytest.mark.parametrize("means", [[math.nan, 5.0, 5.0], [5.0, math.nan, 5.0, 5.0]])
def test_nan_is_never_met(means):
    assert one_clock(means, 1e9) is Verdict.UNDECIDED
    assert needed(means, 1e9) is None


ORDER = [Verdict.MISSED, Verdict.UNDECIDED, Verdict.MET]


@given(st.lists(st.floats(1, 1e3), min_size=2, max_size=9), st.floats(1, 1e3))
def test_a_tighter_limit_is_never_better(means, limit):
    assert ORDER.index(one_clock(means, limit / 2)) <= ORDER.index(one_clock(means, limit))


# --- what the looks spend together -------------------------------------------------------------------------------------------------------


def normal(draw):
    return draw.gauss(0, 1)


def heavy_tailed(draw):
    """Student's t with three degrees of freedom."""
    return draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2) / 3)


def skewed(draw):
    """Lognormal, centred: a process is more often much too slow than much too fast."""
    return math.exp(0.3 * draw.gauss(0, 1)) - math.exp(0.045)


def contaminated(draw):
    """One process in five has ten times the spread: a neighbour that comes and goes."""
    return draw.gauss(0, 10 if draw.random() < 0.2 else 1)


def correlated(coefficient):
    def make(draw):
        last = draw.gauss(0, 1)
        while True:
            yield last
            last = coefficient * last + math.sqrt(1 - coefficient**2) * draw.gauss(0, 1)

    return make


def independent(each):
    return lambda draw: iter(lambda: each(draw), None)


def stopped(means, limit):
    """The verdict at which the measurement stops, and after how many processes."""
    for count in LOOKS:
        verdict = one_clock(means[:count], limit, find_drift(means[:count], ()))
        if verdict is not Verdict.UNDECIDED:
            break
    return verdict, count


def wrong_share(process, seed, draws=2000):
    """The share of wrong verdicts where the true mean is just above its limit, and where it is just within."""
    draw = random.Random(seed)
    mean = 30.0  # in units of the spread between processes
    verdicts = [stopped([mean + each for each in itertools.islice(process(draw), LOOKS[-1])], mean)[0] for _ in range(draws)]
    return verdicts.count(Verdict.MET) / draws, verdicts.count(Verdict.MISSED) / draws


@pytest.mark.parametrize(
    ("process", "seed"),
    [
        (independent(normal), 1),
        (independent(heavy_tailed), 2),
        (independent(contaminated), 3),
        (independent(skewed), 4),
        (correlated(0.2), 5),
        (correlated(0.3), 6),
        (correlated(0.5), 10),
    ],
    ids=["normal", "heavy-tailed", "contaminated", "skewed", "correlated 0.2", "correlated 0.3", "correlated 0.5"],
)
def test_all_looks_together_err_at_most_as_often_as_they_may(process, seed):
    assert max(wrong_share(process, seed)) <= ERROR


def test_what_the_looks_cannot_see():
    """Processes that follow each other closely err more often; the interval takes them as independent, and the documentation says so."""
    assert ERROR < min(wrong_share(correlated(0.8), 7)) < 0.3


def test_the_stated_share_of_normal_processes():
    met, missed = wrong_share(independent(normal), 8, draws=4000)
    assert met == pytest.approx(0.007, abs=0.005)
    assert missed == pytest.approx(0.007, abs=0.005)


# --- drift -------------------------------------------------------------------------------------------------------------------------------


def flat(means, change=0.0):
    """Thirds of processes with these means, each rising by a share from the first to the last."""
    return [(mean * (1 - change / 2), mean, mean * (1 + change / 2)) for mean in means]


def test_a_rise_within_every_process():
    means = [100.0, 101.0, 99.0, 100.5]
    drift = find_drift(means, flat(means, 0.2))
    assert drift.within == pytest.approx(0.2 / 0.9)
    assert drift.late == pytest.approx(0.1)
    assert drift.across == 0


def test_a_rise_from_process_to_process():
    drift = find_drift([100.0, 101.0, 102.1, 103.0, 103.9], ())
    assert (drift.within, drift.across) == (0, pytest.approx(0.039, abs=0.002))
    assert drift.late == pytest.approx(0.0195, abs=0.001)


def test_both_add_up_and_a_fall_is_negative():
    means = [104.0, 103.0, 101.9, 101.0, 100.1]
    drift = find_drift(means, flat(means, -0.1))
    assert drift.within < 0
    assert drift.across < 0
    assert drift.late == pytest.approx(-0.05 - 0.019, abs=0.003)


@pytest.mark.parametrize(
    ("means", "thirds"),
    [
        ([], ()),
        ([100.0, 120.0], ()),
        ([100.0, 101.0, 99.0, 102.0, 98.0], ()),
        ([100.0, 100.0, 100.0], [(100.0, 100.0, 100.0)] * 3),
        ([100.0, 100.0, 100.0], [(90.0, 100.0, 110.0), (110.0, 100.0, 90.0), (100.0, 100.0, 101.0)]),  # noise
        ([100.0, 100.0], [(90.0, 100.0, 110.0)] * 2),  # too few to tell
        ([0.0, 0.0, 0.0], [(0.0, 0.0, 0.0)] * 3),
        ([math.nan, 1.0, 2.0, 3.0], [(1.0, math.inf, 1.0)] * 4),
    ],
)
def test_no_drift(means, thirds):
    assert find_drift(means, thirds) == NO_DRIFT


def test_a_drift_is_seldom_seen_in_noise():
    draw = random.Random(9)
    seen = sum(find_drift([draw.gauss(100, 2) for _ in range(6)], ()) != NO_DRIFT for _ in range(2000))
    assert seen / 2000 == pytest.approx(0.01, abs=0.008)


@pytest.mark.parametrize(
    ("mean", "late", "verdict"),
    [
        (4.0, 0.1, Verdict.MET),
        (4.8, 0.1, Verdict.UNDECIDED),  # within now, and not for long
        (4.8, -0.1, Verdict.MET),
        (5.4, -0.1, Verdict.UNDECIDED),  # above, and still warming up
        (5.4, 0.1, Verdict.MISSED),
        (6.0, -0.1, Verdict.MISSED),
    ],
)
def test_a_verdict_must_also_hold_for_what_times_come_to(mean, late, verdict):
    assert one_clock([mean, mean, mean], 5.0, Drift(late=late)) is verdict


@given(st.lists(st.floats(1, 1e3), min_size=3, max_size=9), st.floats(1, 1e3), st.floats(-0.9, 10))
def test_a_drift_only_takes_a_verdict_away(means, limit, late):
    with_drift, without = one_clock(means, limit, Drift(late=late)), one_clock(means, limit)
    assert with_drift in {without, Verdict.UNDECIDED}


# --- errors over runs --------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("limit", "deviation", "expected"), [(3e-4, 5e-6, 1), (5e-5, 6e-6, 8), (1.5, 0.2, 10), (3e-7, 5e-6, None), (0.0, 1.0, None)]
)
def test_how_many_inputs_of_ones_own(limit, deviation, expected):
    assert inputs_needed(limit, deviation) == expected


@pytest.mark.parametrize(
    ("errors", "deviation", "expected"),
    [
        ([], 0.1, Verdict.UNDECIDED),
        # few, and clear
        ([0.0] * 2, 0.12, Verdict.MET),
        ([1.5] * 2, 0.12, Verdict.MISSED),
        ([0.95] * 2, 0.12, Verdict.UNDECIDED),
        # as many as it takes
        ([0.99] * 8, 0.12, Verdict.MET),
        ([1.01] * 8, 0.12, Verdict.MISSED),
        # no number would do
        ([0.01, 0.02] * 5, 17.0, Verdict.UNDECIDED),
        ([0.01, 0.02] * 6, 17.0, Verdict.MET),
        ([0.1] * 11 + [9.0], 17.0, Verdict.UNDECIDED),
        ([30.0] * 4, 17.0, Verdict.MISSED),
    ],
)
def test_errors_on_ones_own_inputs(errors, deviation, expected):
    assert confirm(errors, 1.0, deviation) is expected


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), st.floats(1e-6, 20), st.floats(0, 10))
def test_a_larger_error_is_never_judged_better(errors, deviation, more):
    order = (Verdict.MISSED, Verdict.UNDECIDED, Verdict.MET)
    larger = [error + more for error in errors]
    assert order.index(confirm(larger, 1.0, deviation)) <= order.index(confirm(errors, 1.0, deviation))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # scipy.stats.mannwhitneyu(first, second, method="exact").pvalue, without ties
        ((1, 2, 3), (4, 5, 6), 0.1),
        ((1, 2, 3, 4), (5, 6, 7, 8), 2 / 70),
        ((1, 4, 6, 7), (2, 3, 5, 8), 1.0),
        ((1,), (2,), 1.0),
        ((), (1, 2), 1.0),
        ((5, 5, 5), (5, 5, 5), 1.0),
    ],
)
def test_the_rank_test_counts_orders(first, second, expected):
    assert rank_test(first, second) == pytest.approx(expected)
    assert rank_test(second, first) == pytest.approx(expected)


@pytest.mark.parametrize("shift", range(8))
def test_the_rank_test_of_many_agrees_with_the_exact_one_nearly(shift, monkeypatch):
    exact = rank_test(range(7), range(shift, shift + 7))
    monkeypatch.setattr("auditor.statistics.EXACT", 0)
    assert rank_test(range(7), range(shift, shift + 7)) == pytest.approx(exact, abs=0.05)


def test_the_rank_test_of_many():
    assert rank_test(range(12), range(12, 24)) < 0.001
    assert rank_test(range(0, 24, 2), range(1, 25, 2)) > 0.5
    assert rank_test([1.0] * 20, [1.0] * 20) == 1.0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_the_rank_test_is_a_probability_and_fair_to_both(first, second):
    probability = rank_test(first, second)
    assert 0 < probability <= 1
    assert probability == pytest.approx(rank_test(second, first))

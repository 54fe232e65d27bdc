"""Changes of a latency's level against noise: how often each is named, over 200 series of 30 nights each (seeds 0 to 199)."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.history.regressions import FEWEST, find_changes

REPETITIONS, NIGHTS, PLANTED = 200, 30, 20


def noise(seed, *, night=0.005, process=0.008, memory=0.0, tail=0.0, processes=5):
    """Thirty nights of process means: nights differ (with a memory of the night before), so do processes, and some nights are bad."""
    source = random.Random(seed)
    level, nights = 0.0, []
    for _ in range(NIGHTS):
        level = memory * level + math.sqrt(1 - memory**2) * source.gauss(0, night)
        bad = source.expovariate(50) if source.random() < tail else 0.0
        nights.append([1000 * math.exp(level + bad + source.gauss(0, process)) for _ in range(processes)])
    return nights


def planted(nights, at=PLANTED, by=1.03):
    return [[value * (by if index >= at else 1) for value in night] for index, night in enumerate(nights)]


def named(nights):
    return [change.at for change in find_changes(nights) if change.confirmed]


# how many of the 200 may be named in noise alone, and how many at least name the night, and that night alone, of 3 %
@pytest.mark.parametrize(
    ("kind", "false", "right"),
    [
        ({}, 0, 190),
        ({"night": 0.003, "process": 0.005}, 0, 200),
        ({"processes": 9}, 0, 190),
        ({"memory": 0.5}, 2, 185),
        ({"tail": 0.05}, 2, 140),
    ],
    ids=["noise", "quiet", "nine processes", "nights alike", "bad nights"],
)
def test_three_per_cent_are_named_on_the_night_and_noise_is_not(kind, false, right):
    series = [noise(seed, **kind) for seed in range(REPETITIONS)]
    wrongly = sum(bool(named(each)) for each in series)
    rightly = sum(named(planted(each)) == [PLANTED] for each in series)
    print(f"{kind}: {wrongly} of {REPETITIONS} series of noise name a night; {rightly} name night {PLANTED} where 3 % were planted")
    assert wrongly <= false
    assert rightly >= right


def test_a_night_that_is_bad_alone_is_no_regression():
    nights = noise(1)
    nights[15] = [value * 1.2 for value in nights[15]]
    assert not named(nights)


def test_the_last_night_alone_is_a_suspect_and_the_next_confirms_it():
    nights = planted(noise(2, night=0.002), at=29, by=1.05)
    (suspect,) = find_changes(nights)
    assert (suspect.at, suspect.confirmed, suspect.slower) == (29, False, True)
    (change,) = find_changes([*nights, nights[-1]])
    assert (change.at, change.confirmed) == (29, True)
    assert change.share == pytest.approx(0.05, abs=0.01)


def test_what_got_better_again_is_two_changes():
    nights = planted(planted(noise(3, night=0.002)[:30], at=10, by=1.05), at=20, by=1 / 1.05)
    assert [(change.at, change.slower) for change in find_changes(nights)] == [(10, True), (20, False)]


def test_a_share_that_is_of_no_interest_is_not_named():
    nights = planted([[1000 + number % 2 + index % 3 * 0.1 for number in range(5)] for index in range(30)], by=1.005)
    assert not named(nights)


def test_nights_without_a_value_are_left_out_and_keep_their_place():
    nights = planted(noise(4, night=0.002))
    nights[5] = nights[12] = nights[21] = []
    assert named(nights) == [PLANTED]


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(1e-3, 1e9), max_size=4), max_size=16))
def test_any_series_has_changes_in_order_and_after_enough_good_runs(nights):
    found = list(find_changes(nights))
    assert [change.at for change in found] == sorted({change.at for change in found})
    assert all(change.confirmed for change in found[:-1])
    for change in found:
        assert nights[change.at]
        assert sum(map(bool, nights[: change.at])) > FEWEST - 5

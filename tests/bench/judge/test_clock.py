"""The clock's tick is read from the times that it made, and bounds what is called visible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge.clock import mean_tick_seconds, tick_seconds
from bench.judge.evidence import decide, weigh
from bench.judge.metrics import MEAN, QUARTILE, STEP, family, speed_figures

STEPS = 40


def times(random: np.random.Generator, seconds: float, spread: float, tick: float) -> list[float]:
    """As a clock of that tick shows them."""
    exact = seconds * np.exp(random.normal(0.0, spread, STEPS))
    return (np.maximum(1, np.round(exact / tick)) * tick).tolist()


@pytest.mark.parametrize("tick", [1e-3, 1 / 64, 0.004, 0.1])
def test_a_coarse_clock_is_seen(tick: float) -> None:
    assert tick_seconds(times(np.random.default_rng(0), 6.3 * tick, 0.2, tick)) == pytest.approx(tick, rel=1e-6)


def test_equal_times_with_few_digits_are_those_of_a_coarse_clock() -> None:
    assert tick_seconds([0.004] * 20) == pytest.approx(1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_a_fine_clock_shows_no_tick(seed: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    assert tick_seconds((0.65 * np.exp(random.normal(0.0, 0.02, steps))).tolist()) == 0.0


def test_the_last_digit_is_a_tick_unless_it_is_a_small_part_of_a_step() -> None:
    assert tick_seconds([0.00012345, 0.00012347] * 5) == pytest.approx(1e-8)
    assert tick_seconds([1.00012345, 1.00012347] * 5) == 0.0


def test_two_different_times_are_no_grid_and_three_evenly_apart_are() -> None:
    """Any two times are a whole number of their own distance apart."""
    two, three = np.sqrt([2.0, 3.0] * 10).tolist(), [2**0.5, 2**0.5 + 3**-0.5, 2**0.5 + 2 * 3**-0.5] * 10
    assert tick_seconds(two) == 0.0
    assert tick_seconds(three) == pytest.approx(3**-0.5)


@pytest.mark.parametrize(("different", "tick"), [(7, 3**-0.5), (8, 0.0)])
def test_times_that_hardly_repeat_show_no_grid(different: int, tick: float) -> None:
    """Of ten that are evenly apart, seven different ones still do."""
    seconds = [2**0.5 + min(place, different - 1) * 3**-0.5 for place in range(10)]
    assert tick_seconds(seconds) == pytest.approx(tick)


def test_a_tick_leaves_the_mean_of_times_that_vary_by_half_of_it() -> None:
    """Found in a million rounded normal times; it must be the true mean to a hundredth of the tick."""
    random = np.random.default_rng(1)
    exact = random.normal(4.3e-3, 0.5e-3, 1_000_000)
    rounded = np.round(exact, 3)
    assert mean_tick_seconds(rounded.tolist(), 1e-3) == 0.0
    assert rounded.mean() == pytest.approx(4.3e-3, abs=1e-5)
    assert mean_tick_seconds([0.004] * 20, 1e-3) == 1e-3


@pytest.mark.parametrize("slower", [0.0, 0.05, 0.1])
def test_a_slowdown_below_the_tick_is_never_ruled_out(slower: float) -> None:
    """Steps of 4 ms by a clock of 1 ms: both sides show the same, whether or not one is slower."""
    random = np.random.default_rng(2)
    before = [speed_figures(times(random, 4e-3, 0.02, 1e-3)) for _ in range(5)]
    after = [speed_figures(times(random, 4e-3 * (1 + slower), 0.02, 1e-3)) for _ in range(5)]
    judged = decide(family(before, after))
    assert {judged[name].state for name in (STEP, MEAN, QUARTILE)} == {"inconclusive"}
    assert judged[STEP].evidence.visible_percent >= 25


def test_digits_that_are_fine_enough_cost_nothing_that_matters() -> None:
    """Megatron prints tenths of a millisecond."""
    random = np.random.default_rng(3)
    before, after = ([speed_figures(times(random, 0.65, 0.01, 1e-4)) for _ in range(5)] for _ in range(2))
    comparison = family(before, after)[STEP]
    assert 0 < comparison.resolution < 2e-4
    assert weigh(comparison).visible_percent < 5


def test_a_mean_that_is_finer_than_the_tick_is_judged_as_such() -> None:
    random = np.random.default_rng(4)
    sides = [[speed_figures(times(random, 4.3e-3, 0.2, 1e-3)) for _ in range(5)] for _ in range(2)]
    found = family(*sides)
    assert found[STEP].resolution > 0.2
    assert found[MEAN].resolution == 0.0

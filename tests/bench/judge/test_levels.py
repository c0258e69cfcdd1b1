"""Two levels: how wide the gap must be, what stays on its side of it, and what it costs; of steps set exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from bench.judge.findings import Floats, SteadySteps
from bench.judge.levels import find_levels

MANY_QUIET = [(each, 0.0) for each in np.linspace(0.999, 1.001, 21)]


def run(seconds: Sequence[float] | Floats) -> SteadySteps:
    return SteadySteps(1 + np.arange(len(seconds)), np.asarray(seconds, dtype=np.float64), 1, np.zeros(1))


def runs(levels: Sequence[tuple[float, float]]) -> list[SteadySteps]:
    """Of each: its median, and the share of it that lies between the quartiles of its steps."""
    return [run(median * (1 + varies * np.linspace(-1, 1, 41))) for median, varies in levels]


def quiet(logarithms: Sequence[float]) -> list[SteadySteps]:
    return runs([(math.exp(each), 0.0) for each in logarithms])


@pytest.mark.parametrize(
    ("low", "high", "baselines", "degrees", "needed"),
    [
        ([-1, 1], [-1, 1], [], 2, 26.7),
        ([-1, 0, 1], [-1, 1], [], 3, 14.2),
        ([-1, 1], [-1, 0, 1], [], 3, 14.2),
        ([-1, 1], [-1, 1], [-2, -1, 0, 1, 2], 6, 6.7),
    ],
)
def test_the_gap_is_as_many_spreads_as_the_runs_are_few(
    low: list[int], high: list[int], baselines: list[int], degrees: int, needed: float
) -> None:
    """4.2 spreads and 90 more over the degrees of freedom squared; the spread is that within levels, of both sides."""
    unit = 0.002
    spread = math.sqrt(sum(float(np.var(each)) * len(each) for each in (low, high, baselines) if each) / degrees)
    for factor, found in ((0.997, 0), (1.003, 1)):
        above = low[-1] - high[0] + factor * needed * spread
        new = quiet([unit * each for each in (*low, *(each + above for each in high))])
        assert len(find_levels(quiet([unit * each for each in baselines]), new)) == found


def test_levels_of_one_side_do_not_hide_those_of_the_other() -> None:
    """Their gap is no spread between equal runs."""
    both = quiet([0.0, 0.001, 0.06, 0.061])
    assert [each.sentence[:8] for each in find_levels(both, both)] == ["runs fal", "the base"]


@pytest.mark.parametrize(("odd", "strays"), [(1, 1.045), (1, 1.06), (2, 1.06), (2, 1.045)])
def test_between_the_levels_a_step_belongs_to_the_nearer(odd: int, strays: float) -> None:
    """The gap is from 1.03 to 1.075 s; of one run beside it 19 steps of 41 stray, a ninth of the steps of all runs."""
    medians = (1.0, 1.03, 1.075, 1.11)
    new = [run([median] * 41) for median in medians]
    new[odd] = run([medians[odd]] * 22 + [strays] * 19)
    is_near = (strays > 1.0525) == (odd == 2)
    assert len(find_levels(runs(MANY_QUIET), new)) == is_near


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0.01, 0.0249, 1), (0.01, 0.0251, 0), (0.0, 0.0124, 1), (0.0, 0.0126, 0)],  # a clock's half percent at least
)
def test_slow_runs_whose_steps_vary_much_more_are_no_level(low: float, high: float, found: int) -> None:
    new = runs([(1.0, low), (1.001, low), (1.1, high), (1.101, high)])
    assert len(find_levels([], new)) == found


def test_the_cost_is_what_the_mean_run_takes_more_than_the_lower_level() -> None:
    [found] = find_levels([], runs([(1.0, 0.0)] * 3 + [(1.06, 0.0)] * 2))
    assert found.sentence == "runs fall into two levels, 1 s (3 runs) and 1.06 s (2 runs)"
    assert found.percent == pytest.approx(100 * 0.4 * 0.06 / 1.024)

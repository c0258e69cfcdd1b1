"""Kinds of change that a median cannot see: each is found where it was put in, and not told where nothing was."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.judge.findings import Finding, Floats, SteadySteps, is_larger, rank_sum_p
from bench.judge.patterns import findings_of_steps
from bench.judge.stats import find_steady
from bench.selftest.series import FOLDER, read_series

Change = Callable[[Floats], Floats]


def steady(seconds: Floats, first_number: int = 0, stride: int = 1) -> SteadySteps:
    cut = find_steady(seconds.tolist()).steady_from
    numbers = first_number + stride * np.arange(len(seconds), dtype=np.int64)
    return SteadySteps(numbers[cut:], seconds[cut:], cut, seconds[:cut])


def invented(
    runs: int, steps: int, seed: int, change: Change = lambda seconds: seconds, between: float = 0.01
) -> list[SteadySteps]:
    """Runs that vary by one percent, as their steps do, with a slow start, and then changed."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        seconds = np.exp(random.normal(0, between)) * np.exp(random.normal(0, 0.01, steps))
        seconds[:2] *= (3.0, 1.2)
        found.append(steady(change(seconds)))
    return found


def found_by(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> dict[str, Finding]:
    return {each.kind: each for each in findings_of_steps(before, after)}


def every_50th(seconds: Floats) -> Floats:
    slow = seconds.copy()
    slow[50::50] *= 3.1
    return slow


def steps_120_to_160(seconds: Floats) -> Floats:
    slow = seconds.copy()
    slow[120:161] *= 1.3
    return slow


def steps_150_to_160(seconds: Floats) -> Floats:
    slow = seconds.copy()
    slow[150:161] *= 1.2
    return slow


def one_step(seconds: Floats) -> Floats:
    slow = seconds.copy()
    slow[130] *= 4
    return slow


def here_and_there(seconds: Floats) -> Floats:
    slow = seconds.copy()
    chosen = np.random.default_rng(round(1e9 * seconds[9])).permutation(len(seconds) - 2)[: len(seconds) // 10] + 2
    slow[chosen] *= 1.4
    return slow


def slope(seconds: Floats) -> Floats:
    return seconds * (1 + 0.05 * np.arange(len(seconds)) / len(seconds))


def slow_start(seconds: Floats) -> Floats:
    slow = seconds.copy()
    slow[2:60] *= 1.2
    return slow


# ---- each kind ---------------------------------------------------------------------------------------------


def test_equal_runs_have_nothing_to_say() -> None:
    assert findings_of_steps(invented(5, 200, 0), invented(5, 200, 1)) == ()


def test_periodic_steps_are_told_with_their_period_and_numbers() -> None:
    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, every_50th))
    assert found.kind == "periodic"
    assert found.sentence.startswith("every 50th step takes 3.1 times the median (steps 50, 100, 150): 3.")
    assert found.percent == pytest.approx(100 * 3 * 2.1 / (198 + 3 * 2.1), rel=0.1)


@pytest.mark.parametrize("period", [3, 7, 10, 49, 113])
def test_the_period_is_the_one_that_was_put_in(period: int) -> None:
    def change(seconds: Floats) -> Floats:
        slow = seconds.copy()
        slow[4::period] *= 1.5
        return slow

    found = found_by(invented(5, 200, 0), invented(5, 200, 1, change))
    ordinal = {3: "3rd", 7: "7th", 10: "10th", 49: "49th", 113: "113th"}[period]
    assert found["periodic"].sentence.startswith(f"every {ordinal} step takes 1.5 times")


def test_periodic_steps_are_found_without_a_baseline_and_in_a_single_run() -> None:
    assert set(found_by([], invented(1, 400, 1, every_50th))) == {"periodic"}


def test_three_slow_steps_are_a_period_only_in_a_run_long_enough() -> None:
    """Of 60 steps three fall on one by chance too often; of 160 they do not."""

    def change(seconds: Floats) -> Floats:
        slow = seconds.copy()
        slow[len(seconds) // 3 - 4 :: len(seconds) // 3 - 4] *= 2
        return slow

    assert "periodic" not in found_by([], invented(1, 60, 1, change))
    assert found_by([], invented(1, 160, 1, change))["periodic"].sentence.endswith(
        "(steps 49, 98, 147): 1.9 % of the time"
    )


def test_what_the_baseline_has_too_is_no_change() -> None:
    assert findings_of_steps(invented(5, 200, 0, every_50th), invented(5, 200, 1, every_50th)) == ()


def test_what_the_baseline_has_at_half_the_cost_is_told_beside_it() -> None:
    def less(seconds: Floats) -> Floats:
        return np.where(every_50th(seconds) > seconds, seconds * 2, seconds)

    found = found_by(invented(5, 200, 0, less), invented(5, 200, 1, every_50th))["periodic"]
    assert found.sentence.endswith("% in the baseline")
    assert found.percent == pytest.approx(1.6, abs=0.3)


def test_numbers_are_those_of_the_record() -> None:
    """A resumed run starts at another number; a log tells of every tenth step."""

    def change(seconds: Floats) -> Floats:
        slow = seconds.copy()
        slow[5::5] *= 2
        return slow

    runs = [steady(change(invented_seconds), 1000, 10) for invented_seconds in _raw(5)]
    found = found_by([steady(each) for each in _raw(5, 9)], runs)["periodic"]
    assert found.sentence.startswith("every 50th step takes 2")
    assert "(steps 1050, 1100, 1150, ...)" in found.sentence


def _raw(runs: int, seed: int = 0) -> list[Floats]:
    random = np.random.default_rng(seed)
    return [np.exp(random.normal(0, 0.01, 60)) * np.r_[3.0, 1.2, np.ones(58)] for _ in range(runs)]


def test_steps_that_are_slow_in_another_phase_in_each_run_are_no_period() -> None:
    runs = [steady(np.roll(every_50th(each), 7 * shift)) for shift, each in enumerate([np.ones(200)] * 5)]
    assert "periodic" not in found_by(invented(5, 200, 0), runs)


def test_numbers_with_holes_have_no_period() -> None:
    run = invented(1, 200, 1, every_50th)[0]
    numbers = np.append(run.numbers[:-1], 2**62)
    assert findings_of_steps([], [SteadySteps(numbers, run.seconds, run.first, run.leading)]) == ()


def test_a_slow_stretch_is_told_with_its_ends() -> None:
    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, steps_120_to_160))
    assert found.kind == "block"
    assert found.sentence.startswith("steps 120 to 160 took 30 % longer than in the baseline")
    assert found.percent == pytest.approx(100 * 41 * 0.3 / (198 + 41 * 0.3), rel=0.1)


def test_a_stretch_may_be_one_step() -> None:
    for seed in range(10):  # a neighbour that is above the baseline's by chance is not taken along
        found = found_by(invented(5, 200, 100 + seed), invented(5, 200, seed, one_step))
        assert found["block"].sentence.startswith("step 130 took ")


def test_a_stretch_is_told_though_the_baseline_lost_more_at_the_next_step() -> None:
    def before(seconds: Floats) -> Floats:
        return np.where(np.arange(len(seconds)) == 161, 3.7 * seconds, seconds)

    found = found_by(invented(5, 200, 0, before), invented(5, 200, 1, steps_150_to_160))
    assert found["block"].sentence.startswith("steps 150 to 160 took 2")


def test_a_stretch_at_the_start_counts_as_warm_up_and_is_told() -> None:
    found = found_by(invented(5, 200, 0), invented(5, 200, 1, slow_start))
    assert found["warm-up"].sentence.startswith("the warm-up takes 60 steps, 2 in the baseline")
    assert found["warm-up"].percent == pytest.approx(100 * 58 * 0.2 / 200, rel=0.2)


def test_slow_steps_here_and_there_are_a_tail() -> None:
    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, here_and_there))
    assert found.kind == "tail"
    assert found.sentence.startswith("the slowest 5 % of the steps (p95) grew by ")
    assert found.percent == pytest.approx(4, abs=0.6)


def test_a_tail_below_the_floor_is_not_told() -> None:
    """A tenth of the steps takes 3 % longer: 0.3 % of the time."""

    def hardly(seconds: Floats) -> Floats:
        return np.where(here_and_there(seconds) > seconds, 1.03 * seconds, seconds)

    assert findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, hardly)) == ()


def test_rare_slow_steps_are_told_by_another_percentile() -> None:
    def rarely(seconds: Floats) -> Floats:
        slow = seconds.copy()
        slow[20 + round(1e9 * seconds[9]) % 150] *= 4
        return slow

    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, rarely))
    assert found.sentence.startswith("the slowest step grew by ")


def test_a_slope_within_runs_is_a_drift_and_no_stretch() -> None:
    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, slope))
    assert found.kind == "drift"
    assert found.sentence.startswith("steps get slower within each run: +3.")


@pytest.mark.parametrize("size", [0.1, 0.4, 1.0])
def test_a_steep_slope_is_a_drift_and_no_stretch_at_its_end(size: float) -> None:
    """Half of it is the cost, as the mean step is half as much longer as the last."""

    def steep(seconds: Floats) -> Floats:
        return seconds * (1 + size * np.arange(len(seconds)) / len(seconds))

    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, steep))
    grown = re.search(r": \+(\d+\.?\d*) % from the first third to the last$", found.sentence)
    assert found.kind == "drift"
    assert grown is not None
    assert found.percent == pytest.approx(float(grown[1]) / 2, rel=0.05)


@pytest.mark.parametrize("size", [0.05, 0.2, 1.0])
def test_a_stretch_at_the_end_is_a_block_and_no_drift(size: float) -> None:
    def late(seconds: Floats) -> Floats:
        slow = seconds.copy()
        slow[140:] *= 1 + size
        return slow

    [found] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, late))
    assert found.kind == "block"
    assert found.sentence.startswith("steps 140 to 199 took ")


@pytest.mark.parametrize(("power", "kind"), [(2, "drift"), (6, "block")])
def test_what_gets_steeper_is_a_drift_while_a_line_comes_closer_than_two_levels(power: int, kind: str) -> None:
    def steeper(seconds: Floats) -> Floats:
        return seconds * (1 + 0.4 * (np.arange(len(seconds)) / len(seconds)) ** power)

    assert findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, steeper))[0].kind == kind


def test_a_drift_costs_no_more_where_the_baselines_runs_get_faster() -> None:
    """What the baseline gained is told, not added to what the new runs lose."""
    faster, slower = (lambda seconds, sign=sign: seconds + sign * (slope(seconds) - seconds) for sign in (-1, 1))
    [alone] = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, slower))
    [found] = findings_of_steps(invented(5, 200, 0, faster), invented(5, 200, 1, slower))
    assert found.percent == pytest.approx(alone.percent)
    assert re.search(r", -3\.\d % in the baseline$", found.sentence)


def test_two_levels_are_told_of_either_side() -> None:
    def two(seed: int) -> list[SteadySteps]:
        low, high = invented(3, 50, seed, between=0.002), invented(2, 50, seed + 1, between=0.002)
        return [*low, *(SteadySteps(run.numbers, 1.06 * run.seconds, run.first, run.leading) for run in high)]

    one = invented(5, 50, 9, between=0.002)
    new, old = found_by(one, two(1))["two levels"], found_by(two(1), one)["two levels"]
    assert new.sentence == "runs fall into two levels, 0.9985 s (3 runs) and 1.059 s (2 runs)"
    assert old.sentence.startswith("the baseline's runs fall into two levels")
    assert new.percent == pytest.approx(100 * 0.4 * 0.06 / 1.024, rel=0.1)


def test_one_odd_run_is_no_level() -> None:
    runs = invented(5, 50, 0, between=0.002)
    odd = SteadySteps(runs[0].numbers, 1.06 * runs[0].seconds, runs[0].first, runs[0].leading)
    assert "two levels" not in found_by(invented(5, 50, 9, between=0.002), [odd, *runs[1:]])


def test_the_costliest_comes_first() -> None:
    def both(seconds: Floats) -> Floats:
        slow = every_50th(seconds)
        slow[120:140] *= 1.1
        return slow

    found = findings_of_steps(invented(5, 200, 0), invented(5, 200, 1, both))
    assert [each.kind for each in found] == ["periodic", "block"]
    assert found[0].percent > found[1].percent


@pytest.mark.parametrize("change", [steps_120_to_160, here_and_there, slope, slow_start])
def test_two_runs_are_too_few_to_differ_from_five(change: Change) -> None:
    assert findings_of_steps(invented(5, 200, 0), invented(2, 200, 1, change)) == ()
    assert findings_of_steps(invented(5, 200, 0), invented(3, 200, 1, change)) != ()


def test_a_burst_in_one_run_of_five_is_nothing() -> None:
    runs = [*invented(4, 200, 1), *invented(1, 200, 2, steps_120_to_160)]
    assert findings_of_steps(invented(5, 200, 0), runs) == ()


def test_checkpoints_of_a_real_npu_job_are_found() -> None:
    """Steps 5 and 10 of 15, from the step times of MindSpeed-LLM's own test baselines, in units of the median.

    The first step is cut. With so few steps find_steady takes some of the slow ones for warm-up.
    """
    runs = [
        (8.03, 1.00, 1.00, 1.00, 1.00, 1.14, 1.00, 1.00, 1.00, 1.00, 1.14, 1.00, 1.00, 1.01, 1.00),
        (7.01, 1.03, 1.00, 0.99, 0.99, 1.10, 0.99, 1.00, 1.00, 1.00, 1.11, 1.00, 1.00, 1.00, 1.01),
        (48.23, 0.99, 0.99, 0.99, 0.98, 1.33, 1.01, 0.99, 0.99, 1.00, 1.34, 1.01, 1.00, 0.99, 1.01),
    ]
    seconds = [np.array(each) for each in runs]
    [found] = findings_of_steps([], [SteadySteps(np.arange(1, 15), each[1:], 1, each[:1]) for each in seconds])
    assert found.sentence.startswith("every 5th step takes 1.1")


# ---- how often without cause ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_equal_runs_of_real_noise_are_told_to_differ_seldom(path: Path) -> None:
    """At most 2 % of the draws for each kind; of 250 draws 11 are beyond that by less than 1 in 100.

    A stretch is looked for, and is hardly ever told: at most 0.2 % of 1500 draws.
    """
    runs = [steady(run.seconds.max(axis=0)) for run in read_series(path).runs]
    random, told = np.random.default_rng(0), Counter[str]()
    for _ in range(250):
        drawn = [runs[at] for at in random.permutation(len(runs))[:10]]
        told.update({each.kind for each in findings_of_steps(drawn[:5], drawn[5:])})
    assert max(told.values(), default=0) <= 11, told
    assert told["block"] <= 2


def test_the_rank_sum_counts_orders() -> None:
    assert rank_sum_p(25, 5, 5) == pytest.approx(1 / 252)
    assert rank_sum_p(23, 5, 5) == pytest.approx(4 / 252)
    assert rank_sum_p(5, 1, 5) == pytest.approx(1 / 6)
    assert rank_sum_p(0, 4, 7) == 1
    assert rank_sum_p(280, 21, 20) == pytest.approx(0.0345, rel=0.02)  # the normal distribution's
    assert is_larger([6, 7, 8], [1, 2, 3, 4, 5])
    assert not is_larger([5, 7, 8], [1, 2, 3, 4, 5])  # a tie counts against it
    assert not is_larger([], [1.0])


# ---- whatever the steps are --------------------------------------------------------------------------------

step_seconds = st.one_of(
    st.floats(1e-9, 1e7, allow_nan=False), st.sampled_from([1.0, 1.0, 1.0, 1.0 + 1e-12, 2.0, 1e7, 1e-9])
)
some_runs = st.lists(st.lists(step_seconds, min_size=1, max_size=40), min_size=1, max_size=7)


@st.composite
def long_runs(draw: st.DrawFn) -> list[list[float]]:
    """Up to 20 runs of up to 2000 steps, made from a seed: constants, ticks, outliers, periods."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    period, height = draw(st.integers(1, 400)), draw(st.sampled_from([1.0, 1.02, 3.0, 1e6]))
    decimals, noise = draw(st.sampled_from([1, 3, 12])), draw(st.sampled_from([0.0, 0.01, 1.0]))
    runs = []
    for _ in range(draw(st.integers(1, 20))):
        seconds = np.round(np.exp(noise * random.normal(size=draw(st.integers(1, 2000)))), decimals) + 1e-3
        seconds[::period] *= height
        runs.append(seconds.tolist())
    return runs


@settings(max_examples=60)
@given(before=st.one_of(st.just([]), some_runs, long_runs()), after=st.one_of(some_runs, long_runs()), data=st.data())
def test_any_steps_can_be_judged_in_any_order_and_at_any_scale(
    before: list[list[float]], after: list[list[float]], data: st.DataObject
) -> None:
    sides = [[steady(np.array(run)) for run in side] for side in (before, after)]
    found = findings_of_steps(*sides)
    assert all(math.isfinite(each.percent) and each.percent > 0 and "nan" not in each.sentence for each in found)
    assert list(found) == sorted(found, key=lambda each: -each.percent)
    shuffled = [[side[at] for at in data.draw(st.permutations(range(len(side))))] for side in sides]
    assert findings_of_steps(*shuffled) == found
    scaled = findings_of_steps(*([_scaled(run, 0.25) for run in side] for side in sides))
    assert [(each.kind, each.percent) for each in scaled] == [(each.kind, each.percent) for each in found]


def _scaled(run: SteadySteps, factor: float) -> SteadySteps:
    return SteadySteps(run.numbers, factor * run.seconds, run.first, factor * run.leading)

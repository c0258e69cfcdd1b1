"""The monitor that may be asked every night: its arithmetic, its error over all nights, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as distributions

from bench.judge.nightly import ERROR, Series, Watch, first_alarm, watch
from bench.selftest.nightly import TEN_SESSIONS, Noise, monitor_alarms_first

NIGHTS = 90
EFFECT_SCALE = 2.0  # standard deviations between sessions: what the e-value bets on


def normal(seed: int, sessions: int, nights: int, spread: float = 0.01) -> tuple[list[float], list[float]]:
    values = (spread * np.random.default_rng(seed).standard_normal(sessions + nights)).tolist()
    return values[:sessions], values[sessions:]


def first_of(before: list[float], nights: list[float]) -> int | None:
    found = first_alarm({"step": Series(before, nights)})
    return None if found is None else found.night


# ---- the arithmetic ------------------------------------------------------------------------------------


def test_no_night_is_no_evidence() -> None:
    before, _ = normal(1, 8, 1)
    assert watch({"step": Series(before, [])}) == Watch(0, 1.0, since=None, change_percent=0.0, figure=None)


def test_two_nights_by_quadrature() -> None:
    """Each alternative's value is a ratio of densities of Student's t: non-central, by the half-normal, over central.

    The slowest night is then left out, so that one night decides, which makes the sum here the smaller one.
    """
    before, nights = [0.0, 0.012, -0.011, 0.004, -0.006, 0.001], [0.021, 0.024]

    def ratio(earlier: list[float], later: list[float]) -> float:
        freedom = len(earlier) + len(later) - 2
        t = distributions.ttest_ind(later, earlier).statistic
        size = math.sqrt(1 / (1 / len(earlier) + 1 / len(later)))

        def weighed(d: float) -> float:
            density = 2 * distributions.norm.pdf(d, scale=EFFECT_SCALE)
            return float(density * distributions.nct.pdf(t, freedom, d * size) / distributions.t.pdf(t, freedom))

        return float(integrate.quad(weighed, 0, 8 * EFFECT_SCALE)[0])

    both = ratio(before, nights) / 2 + ratio([*before, nights[0]], nights[1:]) / 6 + 1 / 3
    alone = ratio(before, nights[:1]) / 2 + 1 / 2
    assert alone < both
    assert watch({"step": Series(before, nights)}).e_value == pytest.approx(alone, rel=1e-3)
    # With one more ordinary night at the start, the value of all is the smaller one.
    assert watch({"step": Series(before, [0.0, -0.1])}).e_value == pytest.approx(
        min(
            ratio(before, [0.0, -0.1]) / 2 + ratio([*before, 0.0], [-0.1]) / 6 + 1 / 3,
            ratio(before, [-0.1]) / 2 + 1 / 2,
        ),
        rel=1e-3,
    )


def test_shift_scale_and_order_of_the_baseline_do_not_matter() -> None:
    before, nights = normal(2, 10, 12)
    nights = [each + 0.02 for each in nights]
    plain = watch({"step": Series(before, nights)}).e_value
    assert plain > 10
    moved = Series([5 + 3 * each for each in reversed(before)], [5 + 3 * each for each in nights])
    assert watch({"step": moved}).e_value == pytest.approx(plain, rel=0.02)  # the least spread has no scale


def test_two_figures_share_the_error() -> None:
    before, nights = normal(3, 10, 12)
    series = Series(before, [each + 0.02 for each in nights])
    assert watch({"mean": series, "median": series}).e_value == watch({"mean": series}).e_value / 2


def test_a_tick_of_the_clock_is_no_slowdown() -> None:
    before, after = [0.0] * 10, [0.05] * 20
    assert first_alarm({"step": Series(before, after)}) is not None
    assert first_alarm({"step": Series(before, after, resolution=0.05)}) is None


def test_a_slowdown_below_any_clock_is_no_evidence_and_none_is_made_of_nights_that_are_faster() -> None:
    """A thousandth of a percent is ten times what these sessions vary by."""
    before, nights = normal(10, 10, 20, spread=1e-6)
    assert watch({"step": Series(before, [each + 1e-5 for each in nights])}).e_value < 2
    tiny, large = (
        watch({"step": Series([unit * each for each in before], [unit * (each - 1e-5) for each in nights])}).e_value
        for unit in (1.0, 1e4)
    )
    assert tiny == pytest.approx(large)


def test_the_change_is_that_of_the_mean_sessions() -> None:
    found = watch({"step": Series([-0.001, 0.001] * 5, [math.log(1.05)] * 8)})
    assert found.since == 1
    assert found.change_percent == pytest.approx(5.0)


def test_a_slowdown_below_the_floor_is_no_alarm() -> None:
    before, nights = normal(4, 10, 40, spread=0.001)
    series = {"step": Series(before, [each + 0.005 for each in nights])}
    assert first_alarm(series) is None
    assert first_alarm(series, floor_percent=0.1) is not None


@pytest.mark.parametrize(("before", "nights"), [([0.0], [0.0]), ([0.0] * 5, [math.nan])])
def test_what_cannot_be_judged_is_refused(before: list[float], nights: list[float]) -> None:
    with pytest.raises(ValueError, match="step: . sessions? of a baseline, at least 2 needed, all of them numbers"):
        watch({"step": Series(before, nights)})


# ---- its error -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [5, 10])
def test_an_e_value_has_a_mean_of_at_most_one(sessions: int) -> None:
    values = [watch({"step": Series(*normal(seed, sessions, 3))}).e_value for seed in range(1000)]
    margin = 4 * float(np.std(values)) / math.sqrt(len(values))
    assert float(np.mean(values)) <= 1 + margin
    assert float(np.mean(values)) > 0.5  # it is a bet, not a constant


def test_an_unchanged_program_is_ever_failed_with_the_stated_chance() -> None:
    """At ten times the error, so that few baselines show it (a year of nights at 1 %: docs/nightly.md)."""
    trials, error = 60, 10 * ERROR
    found = [
        first_alarm({"step": Series(*normal(seed, 6, NIGHTS))}, error, floor_percent=0.0) for seed in range(trials)
    ]
    alarms = sum(each is not None for each in found)
    assert alarms <= trials * error + 4 * math.sqrt(trials * error * (1 - error))


def test_one_bad_night_is_no_alarm() -> None:
    before, nights = normal(5, 10, 30)
    for size in (0.05, 0.5, 5.0):
        assert first_of(before, [*nights[:15], size, *nights[15:]]) is None
    assert first_of(before, [*nights[:15], *[0.5] * 8]) is not None


# ---- what it finds -------------------------------------------------------------------------------------


def test_a_lasting_slowdown_is_found_and_dated() -> None:
    """3 % at 0.5 % between runs and sessions, from the 21st night on."""
    random = np.random.default_rng(6)
    slower = np.where(np.arange(60) < 20, 0.0, math.log(1.03))
    found = [monitor_alarms_first(random, Noise(0.5, 0.5), TEN_SESSIONS, 60, slower) for _ in range(20)]
    assert all(each is not None and 20 < each <= 40 for each in found)
    before, nights = normal(7, 10, 40, spread=0.005)
    alarm = first_alarm({"step": Series(before, [*nights[:20], *[each + 0.03 for each in nights[20:]]])})
    assert alarm is not None
    assert alarm.since is not None
    assert abs(alarm.since - 21) <= 1
    assert alarm.change_percent == pytest.approx(3, abs=0.7)


def test_a_program_that_got_faster_is_no_alarm_until_it_loses_that() -> None:
    before, nights = normal(8, 10, 60, spread=0.005)
    faster = [each - 0.05 * (10 <= place < 40) for place, each in enumerate(nights)]
    assert first_of(before, faster[:40]) is None
    alarm = first_of(before, faster)
    assert alarm is None or alarm > 40

"""As many runs as can decide: from the baseline's own noise, whatever the first run's speed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.evidence import MIN_RUNS_TO_DECIDE
from bench.judge.gate import judge
from bench.judge.metrics import RATE, STEP
from bench.judge.planned_runs import MOST_RUNS, PlannedRuns, _asked, planned_runs
from bench.records.record import Record
from bench.synthetic import build_synthetic_record


def runs(spread: float, first: int, count: int = 5, slower: float = 1.0) -> list[Record]:
    """Equal runs that vary by exactly so much, one standard deviation."""
    pattern = np.linspace(-1, 1, count)
    factors = 1 + spread * pattern / pattern.std(ddof=1) if count > 1 else np.ones(1)
    return [
        build_synthetic_record(seed=first + at, noise=0.001, median_seconds=float(40.0 * slower * factor))
        for at, factor in enumerate(factors)
    ]


def stored(spread: float, **changes: object) -> Baseline:
    return recorded_baseline(runs(spread, 1), "to test with").model_copy(update=changes)


def planned(spread: float, slower: float = 1.0) -> PlannedRuns:
    found = planned_runs(runs(0.0, 50, 1, slower)[0], [stored(spread)])
    assert found is not None
    return found


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.015])
def test_the_planned_runs_pass_equal_and_fail_slower_ones(spread: float) -> None:
    baseline, found = stored(spread), planned(spread)
    assert found.can_pass
    assert MIN_RUNS_TO_DECIDE <= found.runs <= MOST_RUNS
    assert judge(runs(spread, 50, found.runs), [baseline]).state == "pass"
    assert judge(runs(spread, 50, found.runs, slower=1.28), [baseline]).state == "fail"


def test_the_slowdown_to_rule_out_is_the_tolerance_in_seconds() -> None:
    """Half of the tokens a second are twice the seconds; half as many again are a third less."""
    wide = stored(0.2, tolerance_percent=50.0)
    rows = {row.metric: row for row in judge(runs(0.2, 60), [wide]).rows}
    assert rows[RATE].limit_percent == pytest.approx(-50.0)
    assert rows[STEP].limit_percent == pytest.approx(100.0)
    for row in (rows[RATE], rows[STEP]):
        assert row.evidence is not None
        assert 100 * 50 / 150 < row.evidence.high_percent < 100
        assert row.state == "pass"
    (asked, _) = _asked(wide, runs(0.0, 50, 1)[0], None)
    assert asked.limit_percent == pytest.approx(100.0)


def test_noise_takes_more_runs_and_too_much_of_it_is_told() -> None:
    quiet, noisy, wild = (planned(spread) for spread in (0.005, 0.015, 0.06))
    assert quiet.runs < noisy.runs
    assert not wild.can_pass
    assert wild.runs == 5
    assert "5 runs show only a slowdown of " in wild.sentence
    assert "--runs N overrides" in wild.sentence


def test_ten_runs_are_made_unasked_and_of_more_only_five() -> None:
    found = [planned(spread) for spread in np.linspace(0.014, 0.04, 53)]
    assert max(each.runs for each in found if each.can_pass) == 10
    beyond = [each for each in found if not each.can_pass]
    assert {each.runs for each in beyond} == {5}
    assert any("; --runs 11 would rule out one of 5 %" in each.sentence for each in beyond)


def test_where_no_number_of_runs_would_do_none_is_named() -> None:
    sentences = [judge(runs(0.06, 50, count), [stored(0.06)]).sentence for count in (1, 2, 6)]
    assert all("no number of runs in this session would settle it" in each for each in sentences)
    assert not [each for each in sentences if "a decision takes at least" in each or "--runs" in each]


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_first_runs_speed_does_not_count(slower: float) -> None:
    """Or asking would cost error. What a run takes is told, so only the number is the same."""
    assert planned(0.01, slower).runs == planned(0.01).runs


def test_another_session_of_an_assumed_level_cannot_pass() -> None:
    first = build_synthetic_record(seed=50, created_at="2025-02-03T12:00:00Z")
    found = planned_runs(first, [stored(0.005)], session_percent=20.0)
    assert found is not None
    assert not found.can_pass


@pytest.mark.parametrize("baselines", [[], [stored(0.01, role="retired")], [stored(0.01, sequence_length=7)]])
def test_without_a_recorded_baseline_nothing_is_planned(baselines: list[Baseline]) -> None:
    assert planned_runs(runs(0.0, 50, 1)[0], baselines) is None

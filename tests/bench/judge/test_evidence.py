"""The statistics of the gate: right against scipy and by hand, and with the error rates that they promise."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.judge import difference
from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.difference import Comparison, Error
from bench.judge.evidence import FAMILY_ERROR, Judgement, _p_value, decide, weigh
from bench.judge.gate import judge
from bench.judge.metrics import RATE, STEP
from bench.judge.verdict import exit_code
from bench.records.record import Record

TRIALS = 600
# 4 standard deviations of a count of trials: a correct test fails once in 30,000 seeds, and this seed is fixed
SIGMAS = 4.0


def runs(random: np.random.Generator, count: int, spread: float, slower: float = 0.0) -> list[float]:
    """Invented run medians around one second."""
    return list(np.exp(random.normal(math.log1p(slower), spread, count)))


def share(state: str, spread: float, slower: float, theirs: int, ours: int) -> float:
    """How often two sides of that noise and that true change get this state."""
    random = np.random.default_rng(20)
    found = [
        decide({"step": Comparison(runs(random, theirs, spread), runs(random, ours, spread, slower))})["step"].state
        for _ in range(TRIALS)
    ]
    return sum(each == state for each in found) / TRIALS


def margin(rate: float) -> float:
    return SIGMAS * math.sqrt(rate * (1 - rate) / TRIALS)


# ---- right -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("borrowed", "is_pooled"), [(0.0, False), (1e9, True)])
def test_the_p_value_is_scipys_between_welchs_and_the_pooled_one(
    monkeypatch: pytest.MonkeyPatch, borrowed: float, is_pooled: bool
) -> None:
    """Nothing borrowed is Welch's test. All borrowed is the pooled one, of sides of one size."""
    monkeypatch.setattr(difference, "BORROWED", borrowed)
    random = np.random.default_rng(3)
    before, after = runs(random, 7, 0.02), runs(random, 7 if is_pooled else 5, 0.02, 0.01)
    expected = stats.ttest_ind(np.log(after), np.log(before), alternative="greater", equal_var=is_pooled)
    found = weigh(Comparison(before, after))
    assert found.worse_p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.better_p == pytest.approx(1 - expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(1 - FAMILY_ERROR)
    # the interval's degrees of freedom are rounded down to a tenth
    assert found.low_percent == pytest.approx(100 * math.expm1(interval.low), rel=1e-9 if is_pooled else 5e-3)
    middle = math.log1p(found.change_percent / 100)
    assert found.high_percent == pytest.approx(
        100 * math.expm1(2 * middle - math.log1p(found.low_percent / 100)), rel=1e-9
    )


def test_a_single_run_meets_the_prediction_interval() -> None:
    """mean + t s sqrt(1 + 1/n): the classic limit for one new observation."""
    before = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    logs = np.log(before)
    limit = float(stats.t.isf(FAMILY_ERROR, 5) * logs.std(ddof=1) * math.sqrt(1 + 1 / 6))
    at_limit = math.exp(logs.mean() + limit)
    assert weigh(Comparison(before, [at_limit])).worse_p == pytest.approx(FAMILY_ERROR, rel=1e-6)


def test_visible_means_found_with_the_stated_power() -> None:
    visible_comparison = Comparison([1.0] * 4 + [1.04], [1.0] * 5)
    visible = weigh(visible_comparison)
    spread, change = visible.spread_percent / 100, visible.visible_percent / 100
    error = math.log1p(spread) * math.sqrt(2 / 5)
    freedom = math.floor(10 * difference.difference(visible_comparison).error.freedom) / 10
    found = stats.nct.sf(stats.t.isf(FAMILY_ERROR, freedom), freedom, math.log1p(change) / error)
    assert found == pytest.approx(0.95, abs=1e-4)


def test_holm_tests_the_surest_first() -> None:
    """Of three metrics, the surest at a third of the error, the next at a half."""
    random = np.random.default_rng(5)
    before = runs(random, 6, 0.01)
    pairs = {
        name: Comparison(before, [value * factor for value in before])
        for name, factor in (("a", 1.0), ("b", 1.2), ("c", 1.1))
    }
    judged = decide(pairs)
    assert {name: each.alpha for name, each in judged.items()} == pytest.approx(
        {
            "b": FAMILY_ERROR / 3,
            "c": FAMILY_ERROR / 2,
            "a": FAMILY_ERROR,
        }
    )
    assert [judged[name].state for name in "abc"] == ["pass", "fail", "fail"]


@given(
    st.lists(st.floats(0.5, 2.0), min_size=5, max_size=12),
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=12),
    st.floats(0.01, 100.0),
)
@settings(max_examples=100)
def test_units_do_not_matter_and_sides_mirror(before: list[float], after: list[float], unit: float) -> None:
    found = weigh(Comparison(before, after))
    scaled = weigh(Comparison([unit * value for value in before], [unit * value for value in after]))
    assert scaled.change_percent == pytest.approx(found.change_percent, rel=1e-6, abs=1e-9)
    assert scaled.worse_p == pytest.approx(found.worse_p, rel=1e-6, abs=1e-12)
    assert found.low_percent <= found.change_percent <= found.high_percent
    assert found.worse_p + found.better_p == pytest.approx(1.0)


def test_equal_runs_without_any_noise_pass_and_a_permille_more_does_not_fail() -> None:
    assert decide({"step": Comparison([1.0] * 5, [1.0])})["step"].state == "pass"
    assert decide({"step": Comparison([1.0] * 5, [1.001] * 3)})["step"].state == "pass"  # sure, but below the floor
    assert decide({"step": Comparison([1.0] * 5, [1.02] * 3)})["step"].state == "fail"


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_fewer_than_three_runs_decide_nothing(factor: float) -> None:
    """One run may have met anything; a suspicion is confirmed by more runs in the same test, not by repeating it."""
    for count, state in ((1, "inconclusive"), (2, "inconclusive"), (3, "fail" if factor > 1 else "improved")):
        assert decide({"step": Comparison([1.0] * 5, [factor] * count)})["step"].state == state


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_figures_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a positive number"):
        weigh(Comparison([1.0, 1.0, 1.0, 1.0, value], [1.0]))


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="4 baseline runs"):
        weigh(Comparison([1.0] * 4, [1.0]))
    with pytest.raises(ValueError, match="0 of ours"):
        weigh(Comparison([1.0] * 5, []))


# ---- the promised error rates ----------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [3, 5])
@pytest.mark.parametrize("spread", [0.005, 0.02])
def test_equal_sides_rarely_fail(spread: float, ours: int) -> None:
    assert share("fail", spread, 0.0, 5, ours) <= FAMILY_ERROR + margin(FAMILY_ERROR)


def test_a_family_of_equal_metrics_rarely_fails_at_all() -> None:
    random = np.random.default_rng(21)
    failed = 0
    for _ in range(TRIALS):
        pairs = {str(metric): Comparison(runs(random, 5, 0.01), runs(random, 5, 0.01)) for metric in range(10)}
        failed += any(each.state == "fail" for each in decide(pairs).values())
    assert failed / TRIALS <= FAMILY_ERROR + margin(FAMILY_ERROR)


def test_five_percent_are_found_with_five_runs_a_side_at_one_percent_noise() -> None:
    assert share("fail", 0.01, 0.05, 5, 5) >= 0.95


def test_two_percent_are_found_with_ten_runs_a_side_at_one_percent_noise() -> None:
    assert share("fail", 0.01, 0.02, 10, 10) >= 0.95 - margin(0.95)


def test_a_pass_is_an_interval_that_ends_below_the_limit() -> None:
    seen = set()
    for spread in np.linspace(0.005, 0.06, 40):
        pattern = 1 + spread * np.linspace(-1, 1, 5)
        comparison = Comparison((40 * pattern).tolist(), (40 * pattern).tolist())
        judgement = decide({"step": comparison})["step"]
        seen.add(judgement.state)
        assert (judgement.state == "pass") == (judgement.evidence.high_percent < comparison.limit_percent), spread
    assert seen == {"pass", "inconclusive"}


def test_a_part_is_told_in_percent_of_the_whole_and_no_suspicion_within_a_session() -> None:
    judgement = decide({"part": Comparison([1.0, 1.01, 0.99, 1.0, 1.0], [1.5, 1.51, 1.49, 1.5, 1.5], whole=10.0)})[
        "part"
    ]
    assert judgement.evidence.change_percent == pytest.approx(5.0)
    assert (judgement.state, judgement.is_suspicion) == ("fail", False)


def test_with_every_degree_of_freedom_the_error_is_normal() -> None:
    assert _p_value(2.5, Error(1.0, math.inf), 0.5) == pytest.approx(0.0227501319)
    assert _p_value(2.5, Error(1.0, 1e9), 0.5) == pytest.approx(0.0227501319, rel=1e-4)


def test_noise_that_hides_the_limit_is_inconclusive_not_a_pass() -> None:
    assert share("inconclusive", 0.05, 0.0, 5, 1) > 0.9
    assert share("pass", 0.05, 0.05, 5, 1) <= FAMILY_ERROR + margin(FAMILY_ERROR)


def test_a_faster_side_improves_and_does_not_fail() -> None:
    assert share("improved", 0.01, -0.05, 5, 5) >= 0.95


# ---- in the gate -----------------------------------------------------------------------------------------


def record_at(synthetic_record: Any, seconds: float, seed: int) -> Record:
    """A run whose steady steps all take 40 times that long."""
    seconds *= 40
    record = synthetic_record(noise=0.0)
    ranks = [rank.model_dump() | {"step_seconds": [5 * seconds] + [seconds] * 19} for rank in record.ranks]
    found: Record = synthetic_record(ranks=ranks, id=f"{seed:032x}")
    return found


@pytest.fixture
def stored(synthetic_record: Any) -> Baseline:
    """Five recorded runs that vary by one percent."""
    random = np.random.default_rng(8)
    return recorded_baseline(
        [record_at(synthetic_record, s, i) for i, s in enumerate(runs(random, 5, 0.01))], "invented"
    )


def verdict_of(synthetic_record: Any, stored: Baseline, slower: float, count: int, spread: float = 0.01) -> Any:
    random = np.random.default_rng(9)
    seconds = runs(random, count, spread, slower)
    return judge([record_at(synthetic_record, s, 100 + i) for i, s in enumerate(seconds)], [stored])


@pytest.mark.parametrize(
    ("slower", "count", "spread", "state"),
    [
        (0.0, 5, 0.01, "pass"),
        (0.05, 5, 0.01, "fail"),
        (-0.06, 5, 0.01, "improved"),
        (0.0, 3, 0.08, "inconclusive"),
    ],
)
def test_recorded_runs_are_judged_by_their_own_noise(
    synthetic_record: Any, stored: Baseline, slower: float, count: int, spread: float, state: str
) -> None:
    verdict = verdict_of(synthetic_record, stored, slower, count, spread)
    assert verdict.state == state, verdict.sentence
    assert verdict.sentence.startswith(state.upper())
    assert f"{count} runs against 5" in verdict.sentence
    assert {row.state for row in verdict.rows if row.metric in (RATE, STEP)} == {state}
    assert exit_code(verdict, require_baseline=False) == int(state == "fail")
    assert exit_code(verdict, require_baseline=True) == int(state in ("fail", "inconclusive"))


def test_an_inconclusive_verdict_says_what_to_do(synthetic_record: Any, stored: Baseline) -> None:
    """Three runs that vary by 8 %: their own noise hides the limit from any number of them."""
    sentence = verdict_of(synthetic_record, stored, 0.0, 3, 0.08).sentence
    assert re.search(r"by A/B: python -m bench ab --base 0{40} --case grok1-40b --device npu \(\d+ min\)", sentence), (
        sentence
    )


def test_four_recorded_runs_are_judged_by_the_tolerance(synthetic_record: Any, stored: Baseline) -> None:
    few = stored.model_copy(update={"runs": stored.runs[:4]})
    assert all(row.evidence is None for row in verdict_of(synthetic_record, few, 0.0, 5).rows)
    assert isinstance(decide({"x": Comparison([1.0] * 5, [1.0])})["x"], Judgement)

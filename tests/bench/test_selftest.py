"""The replay: slowdowns are what they say, shares have honest intervals, and every rule can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench import selftest
from bench.selftest import FOLDER, KINDS, RULES, Outcome, Run, Series, Share, replay, slowed

SHIPPED = sorted(FOLDER.glob("*.json"))


def invented(spread: float, count: int = 20, steps: int = 30) -> Series:
    """Runs of two ranks whose medians vary by that much, and whose steps vary a little."""
    random = np.random.default_rng(4)
    runs = []
    for level in np.exp(random.normal(0.0, spread, count)):
        steps_RS = 1e6 * level * np.exp(random.normal(0.0, 0.002, (2, steps)))
        runs.append(Run(ranks=steps_RS.astype(int).tolist()))
    return Series(condition="invented", recipe_name="none", recipe_hash="0" * 12, device_name="none", runs=runs)


def failed(outcomes: list[Outcome], rule: str, percent: float, kind: str = "every step") -> float:
    return next(o.failed.value for o in outcomes if (o.rule, o.percent, o.kind) == (rule, percent, kind))


@pytest.fixture(scope="module")
def quiet() -> list[Outcome]:
    return replay(invented(0.004), trials=200)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_fail_and_can_pass(quiet: list[Outcome], rule: str) -> None:
    """A gate that never fails is dead; one that always fails is no better."""
    if rule == "this gate, 1 run":
        assert failed(quiet, rule, 10.0) == 0.0  # by design: it asks for more
    else:
        assert failed(quiet, rule, 10.0) == 1.0
    assert failed(quiet, rule, 0.0) <= 0.05


def test_small_slowdowns_are_found_only_by_the_gate_that_knows_the_noise(quiet: list[Outcome]) -> None:
    assert failed(quiet, "this gate, 5 runs", 2.0) > 0.95
    assert failed(quiet, "MindSpeed's, mean of steps 6 to N", 2.0) == 0.0
    assert failed(quiet, "Megatron's, median of a window", 2.0) == 0.0


def test_noise_makes_the_gate_inconclusive_and_the_others_wrong() -> None:
    noisy = replay(invented(0.04), trials=200, kinds=["every step"])
    assert failed(noisy, "this gate, 3 runs", 0.0) <= 0.06
    assert failed(noisy, "MindSpeed's, mean of steps 6 to N", 0.0) > 0.1
    hidden = next(o for o in noisy if (o.rule, o.percent) == ("this gate, 1 run", 0.0))
    assert hidden.inconclusive.value > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_slowdowns_are_of_the_size_they_say(kind: Any) -> None:
    seconds_RS = np.full((3, 40), 2.0)
    slow_RS = slowed(seconds_RS, 5.0, kind)
    assert slow_RS.max(axis=0).mean() == pytest.approx(2.0 * 1.05)
    assert (slow_RS >= seconds_RS).all()
    if kind == "one step in ten":
        assert np.median(slow_RS) == 2.0


def test_shares_have_clopper_pearson_intervals() -> None:
    expected = stats.binomtest(7, 200).proportion_ci(0.95, method="exact")
    assert Share(7, 200).interval == pytest.approx((expected.low, expected.high))
    assert Share(0, 50).interval[0] == 0.0
    assert Share(50, 50).interval[1] == 1.0


def test_replay_is_the_same_each_time() -> None:
    series = invented(0.01, count=12)
    assert replay(series, 20, kinds=["every step"]) == replay(series, 20, kinds=["every step"])


def test_too_few_runs_are_refused() -> None:
    few = invented(0.01, count=12).model_copy(update={"runs": invented(0.01).runs[:9]})
    with pytest.raises(ValueError, match="has 9 runs, a trial draws 10"):
        replay(few, 10)


def test_false_alarms_surely_above_the_stated_are_not_sound(quiet: list[Outcome]) -> None:
    assert selftest.is_sound(quiet)
    alarm = Outcome("x", "this gate, 1 run", "every step", 0.0, Share(30, 200), Share(0, 200))
    assert not selftest.is_sound([*quiet, alarm])


def test_series_go_through_files(tmp_path: Path, synthetic_record: Any) -> None:
    records = [synthetic_record(id=f"{index:032x}") for index in range(10)]
    series = selftest.series_of("invented", records)
    selftest.write_series(tmp_path / "series.json", series)
    assert selftest.read_series(tmp_path / "series.json") == series
    assert series.runs[0].seconds.shape == (len(records[0].ranks), len(records[0].steps))
    (tmp_path / "series.json").write_text('{"schema": 1, "runs": []}')
    with pytest.raises(ValueError, match=r"series\.json"):
        selftest.read_series(tmp_path / "series.json")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_noise_is_read_and_the_gate_is_sound_on_it(path: Path) -> None:
    series = selftest.read_series(path)
    outcomes = replay(series, trials=200, kinds=["every step"])
    assert selftest.is_sound(outcomes)
    assert series.condition in selftest.table(outcomes, series)


def test_noise_ships() -> None:
    assert SHIPPED

"""A run far from the other runs of its baseline: found, not hidden by a second one, and rarely seen where none is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.outliers import accidents, far_from_others, outliers, told

# Rosner's own example as the NIST/SEMATECH e-Handbook of Statistical Methods gives it (1.3.5.17.3): the three largest
ROSNERS = [
    -0.25, 0.68, 0.94, 1.15, 1.20, 1.26, 1.26, 1.34, 1.38, 1.43, 1.49, 1.49, 1.55, 1.56, 1.58, 1.65, 1.69, 1.70, 1.76,
    1.77, 1.81, 1.91, 1.94, 1.96, 1.99, 2.06, 2.09, 2.10, 2.14, 2.15, 2.23, 2.24, 2.26, 2.35, 2.37, 2.40, 2.47, 2.54,
    2.62, 2.64, 2.90, 2.92, 2.92, 2.93, 3.21, 3.26, 3.30, 3.59, 3.68, 4.30, 4.64, 5.34, 5.42, 6.01,
]  # fmt: skip


def normal(count: int, spread_percent: float, seed: int = 0) -> list[float]:
    logs = spread_percent / 100 * np.random.default_rng(seed).standard_normal(count)
    return (2 * np.exp(logs)).tolist()


def indices(values: list[float], **options: Any) -> list[int]:
    return sorted(each.index for each in far_from_others(values, **options))


def test_rosners_own_example() -> None:
    assert indices(np.exp(ROSNERS).tolist()) == [51, 52, 53]


@pytest.mark.parametrize("away", np.linspace(2.0, 8.0, 13).tolist())
def test_of_five_values_one_is_far_by_grubbss_table(away: float) -> None:
    """Two-sided at 5 %, five values: 1.715 standard deviations (Grubbs and Beck 1972)."""
    logs = np.array([-1.0, -0.5, 0.5, 1.0, away])
    deviate = (away - logs.mean()) / logs.std(ddof=1)
    assert abs(deviate - 1.715) > 5e-4
    assert indices(np.exp(logs).tolist()) == ([4] if deviate > 1.715 else [])


@pytest.mark.parametrize("count", [5, 6, 10, 20, 40])
@pytest.mark.parametrize("factor", [1.1, 0.9])
def test_one_far_run_is_found(count: int, factor: float) -> None:
    values = normal(count, 0.5)
    values[3] *= factor
    (found,) = far_from_others(values)
    assert (found.index, found.count, found.is_accident) == (3, count - 1, True)
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1.5)
    assert found.spread_percent < 1.0


@pytest.mark.parametrize("factors", [(1.1, 1.1), (1.1, 1.3), (0.9, 1.1)])
def test_two_far_runs_do_not_hide_each_other(factors: tuple[float, float]) -> None:
    """Against the spread of all ten, neither of two equal ones is farther than 2.7 standard deviations."""
    values = normal(10, 0.5)
    values[2] *= factors[0]
    values[7] *= factors[1]
    assert indices(values) == [2, 7]
    assert all(each.is_accident for each in far_from_others(values))


def test_three_far_runs_of_ten_are_the_machines_own_noise() -> None:
    values = normal(10, 0.3)
    for index in (0, 4, 8):
        values[index] *= 1.2
    found = far_from_others(values)
    assert sorted(each.index for each in found) == [0, 4, 8]
    assert not any(each.is_accident for each in found)


def test_a_distance_within_the_floor_is_nothing() -> None:
    values = [*normal(9, 0.01), 2 * 1.003]
    assert indices(values) == []
    assert indices(values, floor_percent=0.2) == [9]


@pytest.mark.parametrize(("count", "far"), [(5, 1), (10, 2)])
def test_equal_runs_but_for_some(count: int, far: int) -> None:
    """A spread of nothing among the others is no division by zero, and no excuse."""
    assert indices([2.0] * count) == []
    assert indices([2.0] * (count - far) + [2.1] * far) == list(range(count - far, count))


def test_too_few_runs_say_nothing() -> None:
    assert far_from_others([1.0, 1.0, 1.0, 9.0]) == []
    assert far_from_others([]) == []


@pytest.mark.parametrize("count", [5, 7, 10, 20])
def test_normal_runs_are_rarely_called_far(count: int) -> None:
    """5 % is asked for; of 1000 trials 6.9 % would be three standard errors above that."""
    found = sum(bool(far_from_others(normal(count, 3.0, seed))) for seed in range(1000))
    assert 15 <= found <= 69


def test_more_runs_find_what_few_cannot() -> None:
    def share(count: int) -> float:
        tried = [normal(count, 1.0, seed) for seed in range(200)]
        return sum(indices([*values[1:], values[0] * 1.05]) == [count - 1] for values in tried) / 200

    assert share(5) < 0.5 < share(10) < share(20)


def baseline_of(synthetic_record, *odd: dict[str, Any], quiet: int = 9) -> Baseline:
    """So many runs that differ by 0.3 %, and then the odd ones."""
    between = 39.8 * (1 + 0.003 * np.random.default_rng(7).standard_normal(quiet + len(odd)))
    changes: list[dict[str, Any]] = [{} for _ in range(quiet)] + list(odd)
    runs = []
    for seed, (seconds, each) in enumerate(zip(between, changes, strict=True), start=1):
        slower = each.pop("slower", 1.0)
        record = synthetic_record(seed=seed, noise=0.003, median_seconds=seconds * slower)
        runs.append(record.model_copy(update={"ranks": [rank_of(rank, **each) for rank in record.ranks]}))
    return recorded_baseline(runs, "for a test")


def rank_of(rank: Any, stall: float = 1.0, memory: float = 1.0) -> Any:
    seconds = list(rank.step_seconds)
    seconds[10] *= stall
    return rank.model_copy(update={"step_seconds": seconds, "peak_bytes": int(rank.peak_bytes * memory)})


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"slower": 1.1}, ": s/step 4"),
        ({"slower": 0.9}, " below the median of the other 9"),
        ({"stall": 3.0}, ": mean s/step 4"),
        ({"memory": 1.05}, ": peak memory 54.600 GiB, 5.0 % above the median of the other 9, which vary by 0 %"),
    ],
)
def test_the_run_its_value_and_its_distance_are_named(synthetic_record, odd: dict[str, Any], words: str) -> None:
    baseline = baseline_of(synthetic_record, odd)
    (found,) = outliers(baseline)
    assert found.record_id == f"{10:032x}"
    assert found.sentence.startswith("run 00000000 is far from the others: ")
    assert words in found.sentence
    assert accidents(baseline) == [found]
    assert told(baseline).endswith("record the baseline again")
    assert found.sentence in told(baseline)


def test_a_slow_run_with_more_memory_is_named_for_each_and_not_for_its_mean(synthetic_record) -> None:
    found = outliers(baseline_of(synthetic_record, {"slower": 1.1, "memory": 1.05}))
    assert [each.metric for each in found] == ["step_seconds", "peak_bytes"]


def test_a_baseline_without_any_says_nothing(synthetic_record) -> None:
    baseline = baseline_of(synthetic_record)
    assert outliers(baseline) == []
    assert told(baseline) == ""


def test_far_runs_that_recur_are_named_and_no_accident(synthetic_record) -> None:
    baseline = baseline_of(synthetic_record, *({"slower": 1.2} for _ in range(3)))
    assert len(outliers(baseline)) == 3
    assert outliers(baseline)[0].sentence.endswith("this is how runs vary here")
    assert accidents(baseline) == []
    assert told(baseline) == ""


def test_a_stored_baseline_without_figures_is_looked_at_by_its_steps(synthetic_record) -> None:
    baseline = baseline_of(synthetic_record, {"slower": 1.1})
    old = baseline.model_copy(update={"runs": [run.model_copy(update={"figures": {}}) for run in baseline.runs]})
    (found,) = outliers(old)
    assert found.metric == "step_seconds"


def test_a_published_figure_has_no_runs(synthetic_record) -> None:
    assert outliers(baseline_of(synthetic_record).model_copy(update={"runs": []})) == []

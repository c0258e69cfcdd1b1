"""Lines through timed collectives, the host's cost, and how far predictions lie from runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.calibrate import validation
from bench.calibrate.calibration import default_samples
from bench.calibrate.collectives import CollectiveTime, fitted, lines
from bench.calibrate.crowding import crowd_jobs
from bench.calibrate.host import HostSample
from bench.calibrate.host import fitted as host_fitted
from bench.calibrate.operators import last_level_cache
from bench.calibrate.validation import (
    FEW_CONTROLS,
    FEW_RANKS,
    MANY_CONTROLS,
    MANY_RANKS,
    Trial,
    accuracy,
    plan_accuracy,
    slowdown,
    table,
    trials,
)
from bench.plan.device import load_device
from bench.plan.measured_device import MeasuredPrediction
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe

_SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22)


@given(alpha=st.floats(1e-6, 1e-3), beta=st.floats(1e8, 1e11))
def test_planted_alpha_and_beta_are_found(alpha: float, beta: float) -> None:
    line = fitted({size: alpha + size / beta for size in _SIZES})
    for size in _SIZES:
        assert line.alpha_seconds + size / line.beta_bytes_per_second == pytest.approx(alpha + size / beta, rel=1e-3)
    assert line.residual < 1e-3


def test_what_is_off_the_line_stays_as_its_residual() -> None:
    seconds = {size: (1e-4 + size / 1e9) * (1.2 if index % 2 else 0.8) for index, size in enumerate(_SIZES)}
    assert fitted(seconds).residual == pytest.approx(0.2, abs=0.08)


def test_one_size_makes_no_line() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fitted({1024: 1.0})


def test_a_row_is_a_ranks_share_of_the_cores_and_a_transfer_is_half_of_a_swap() -> None:
    heard = [
        CollectiveTime(operation, 2, size, factor * (1e-3 + size / 1e8))
        for operation in ("all_reduce", "send")
        for size in _SIZES
        for factor in (0.9, 1.0, 1.1)
    ]
    reduce, send = lines(heard, job_ranks=8, cores=2)
    assert (reduce.operation, reduce.ranks, reduce.job_ranks) == ("all_reduce", 2, 8)
    assert reduce.call_seconds == pytest.approx(1e-3 / 4, rel=0.01)
    assert reduce.bytes_a_second == pytest.approx(4e8, rel=0.01)
    assert send.call_seconds == pytest.approx(1e-3 / 8, rel=0.01)
    alone, _ = lines(heard, job_ranks=8, cores=None)
    assert alone.call_seconds == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_the_planted_cost_and_share_are_found(share: float) -> None:
    rows = [(0.1, 100), (0.02, 1000), (0.5, 5000), (0.05, 3000), (0.3, 300)]
    samples = [HostSample(share * seconds + calls * 5e-6, seconds, calls) for seconds, calls in rows]
    found = host_fitted(samples)
    assert found.operator_share == pytest.approx(share, rel=1e-3)
    assert found.seconds_a_call == pytest.approx(5e-6, rel=1e-2)
    assert found.residual < 1e-4


def test_a_machine_that_changes_its_speed_gives_no_cost_of_a_step() -> None:
    """Small steps that were taken while it was slow once looked like 24 ms a step, and calls like a third of theirs."""
    rows = [(0.080, 3033, 1.2), (0.430, 5725, 1.0), (0.320, 2987, 0.9), (0.430, 866, 1.1), (0.150, 5725, 0.9)]
    samples = [HostSample(slow * (seconds + calls * 9e-6), seconds, calls) for seconds, calls, slow in rows]
    assert host_fitted(samples, is_cold=False).seconds_a_call == pytest.approx(9e-6, rel=0.25)


def test_operators_that_were_timed_in_the_step_take_all_of_their_time() -> None:
    rows = [(0.1, 100), (0.02, 1000), (0.5, 5000), (0.05, 3000), (0.3, 300)]
    samples = [HostSample(seconds + calls * 5e-6 + 2e-3, 1.3 * seconds, calls) for seconds, calls in rows]
    assert host_fitted(samples).operator_share < 0.9
    assert host_fitted(samples, is_cold=False).operator_share == 1.0


def test_few_samples_leave_the_table_as_it_is() -> None:
    found = host_fitted([HostSample(0.1 + 5e-3, 0.1, 1000)])
    assert found.operator_share == pytest.approx(1.0)
    assert found.seconds_a_call == pytest.approx(5e-6, rel=1e-3)


def test_operators_that_take_longer_than_the_step_leave_no_negative_cost() -> None:
    found = host_fitted([HostSample(1.0, 1.5, 100)])
    assert found.seconds_a_call == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="at least one --recipe"):
        host_fitted([])


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_level_cache(tmp_path) == 32 << 20
    assert last_level_cache(tmp_path / "none") == 64 << 20


def _trial(predicted: float, measured: float, ranks: int) -> Trial:
    recipe = load_recipe("grok1-nano", ["training.global_batch=16"])
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"world_size": ranks})})
    prediction = MeasuredPrediction(predicted, predicted, {}, 1.0, 0.0)
    return Trial("job", recipe, prediction, 2.0 * predicted, [measured] * 3, [measured] * 3)


def test_errors_regret_and_order_are_of_the_runs() -> None:
    right = [_trial(1.1, 1.0, 4), _trial(2.0, 2.0, 4), _trial(2.7, 3.0, 4)]
    found = accuracy(right)
    assert found.median_error == pytest.approx(0.1)
    assert found.worst_error == pytest.approx(0.1)
    assert (found.regret, found.tau) == (0.0, 1.0)
    wrong = [_trial(1.0, 1.5, 8), _trial(2.0, 1.0, 8)]
    found = accuracy(right + wrong)
    assert found.regret == pytest.approx(0.5)
    assert found.tau == pytest.approx(0.0)
    assert plan_accuracy(right).median_error == pytest.approx(1.0)
    assert plan_accuracy(right).tau == 1.0
    assert {"-33.3%", "+33.3%"} <= set(table(wrong).split())


def test_errors_are_told_at_the_speed_of_the_controls_too() -> None:
    """All took a quarter longer than when they were calibrated, but for one that took half as long again."""
    controls = [_trial(1.0, 1.25, 1), _trial(2.0, 2.5, 1), _trial(2.0, 9.0, 1)]
    assert slowdown(controls) == pytest.approx(1.25)
    jobs = [_trial(1.0, 1.25, 1), _trial(2.0, 2.5, 1), _trial(2.0, 3.0, 1)]
    assert accuracy(jobs).median_error == pytest.approx(0.2)
    found = accuracy(jobs, slowdown(controls))
    assert found.median_error == pytest.approx(0.0)
    assert found.worst_error == pytest.approx(1 / 6)
    assert found.errors == "median error 0.0%, worst 16.7%"
    assert found.line() == "median error 0.0%, worst 16.7%, regret 0.0%, Kendall tau 0.82"


def test_jobs_beside_predictions_route_evenly_and_only_the_controls_were_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prediction = MeasuredPrediction(1.0, 1.0, {}, 1.0, 0.0)
    monkeypatch.setattr(validation, "predictions", lambda recipes, _: [prediction] * len(recipes))
    monkeypatch.setattr(validation, "planned_seconds", lambda *_: 1.0)
    device = load_device("h100-sxm")
    tried = [each.recipe for each in trials((*FEW_RANKS, *MANY_RANKS), device)]
    alone, together = ([each.recipe for each in trials(jobs, device)] for jobs in (FEW_CONTROLS, MANY_CONTROLS))
    assert {each.training.routing for each in (*alone, *together, *tried, *crowd_jobs())} == {"random"}
    calibrated = [_learned(sample.recipe) for sample in default_samples("cpu")] + [_learned(r) for r in crowd_jobs()]
    assert all(_learned(each) in calibrated for each in (*alone, *together))
    assert not any(_learned(each) in calibrated for each in tried)


def _learned(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"routing": "learned"})})

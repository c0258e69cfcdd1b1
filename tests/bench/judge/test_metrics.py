"""What is judged of a run: the figures, and each one's share of the error."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.judge.metrics import (
    LOST,
    MEAN,
    MEAN_TICK,
    PHASE,
    QUARTILE,
    SPEED,
    STEP,
    TICK,
    Sessions,
    family,
    figures_of,
    speed_figures,
    stored_figures_of,
)
from bench.judge.stats import summarise

RUN = {STEP: 2.0, MEAN: 2.1, QUARTILE: 1.9, "peak_bytes": 1e9, "skew_seconds": 0.1, PHASE + "forward": 0.5}
OTHERS = sorted(RUN.keys() - set(SPEED))


def test_speed_has_nine_tenths_of_the_error_and_the_others_share_the_rest_evenly() -> None:
    weights = {name: each.weight for name, each in family([RUN] * 5, [RUN] * 3).items()}
    assert [weights[name] for name in SPEED] == pytest.approx([0.3] * 3)
    assert [weights[name] for name in OTHERS] == pytest.approx([0.1 / 3] * 3)
    assert math.fsum(weights.values()) == pytest.approx(1.0), "all of the error is given away, and no more"


def test_what_files_keep_is_never_negative(synthetic_record: Any) -> None:
    """A mean below the median is one of steps that are mostly slow."""
    summary = summarise(synthetic_record(seed=3))
    summary = replace(summary, step_seconds=(1.0, 2.0, 2.0), steady_from=0)
    assert figures_of(summary)[LOST] == pytest.approx(-1 / 3)
    assert LOST not in stored_figures_of(summary)
    assert min(stored_figures_of(summary).values()) >= 0


def test_what_steps_lose_takes_of_speeds_error_and_nothing_of_the_others() -> None:
    run = RUN | {LOST: 0.1}
    weights = {name: each.weight for name, each in family([run] * 5, [run] * 3).items()}
    assert weights[LOST] == pytest.approx(0.045)
    assert [weights[name] for name in SPEED] == pytest.approx([0.285] * 3)
    assert [weights[name] for name in OTHERS] == pytest.approx([0.1 / 3] * 3)


@pytest.mark.parametrize("lost", [{}, {LOST: 0.1}])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_however_many_others_there_are_the_whole_is_one(number: int, lost: dict[str, float]) -> None:
    run = {name: RUN[name] for name in (*SPEED, *OTHERS[:number])} | lost
    assert math.fsum(each.weight for each in family([run] * 5, [run] * 3).values()) == pytest.approx(1.0)


def test_speed_is_one_question_and_each_other_metric_its_own() -> None:
    assert {each.group for name, each in family([RUN] * 5, [RUN]).items() if name in SPEED} == {"speed"}
    assert {each.group for name, each in family([RUN] * 5, [RUN]).items() if name in OTHERS} == {None}


def test_figures_that_a_run_lacks_are_not_judged_nor_are_those_that_only_explain() -> None:
    lacking = {name: value for name, value in RUN.items() if name != "peak_bytes"}
    explaining = RUN | {"collective_seconds.data": 1.0, TICK: 0.1}
    assert set(family([RUN] * 5, [lacking])) == set(lacking)
    assert set(family([explaining] * 5, [explaining])) == set(RUN)


def test_seconds_inside_a_step_are_a_share_of_the_baselines_step() -> None:
    found = family([RUN | {STEP: step} for step in (2.0, 4.0, 8.0)], [RUN | {STEP: 100.0}])
    assert found[PHASE + "forward"].whole == found["skew_seconds"].whole == 4.0
    assert found[STEP].whole is None
    assert found["peak_bytes"].whole is None


def test_what_steps_lose_is_told_beside_the_change_of_the_mean_step() -> None:
    """Of the geometric means of the runs: 4 and 5 seconds."""
    before, after = ([RUN | {LOST: 0.1, MEAN: mean} for mean in means] for means in ((2.0, 8.0), (2.5, 10.0)))
    assert family(before, after)[LOST].whole_change_percent == pytest.approx(25.0)
    assert family(before, after)[STEP].whole_change_percent is None


def test_a_session_has_a_level_of_time_and_none_of_memory() -> None:
    found = family([RUN] * 5, [RUN], sessions=Sessions(["a"] * 5, ["b"], 0.03))
    assert {name: each.session_spread for name, each in found.items() if each.session_spread != 0.03} == {
        "peak_bytes": 0.0
    }
    assert found[STEP].sessions == (["a"] * 5, ["b"])


def test_the_coarsest_clock_of_all_runs_bounds_what_can_be_known_of_speed() -> None:
    ticking = [RUN | {TICK: 0.1}, RUN | {TICK: 0.5, MEAN_TICK: 0.25}]
    found = family([RUN] * 5, ticking)
    assert found[STEP].resolution == found[QUARTILE].resolution == pytest.approx(math.log1p(0.5 / 2.0))
    assert found[MEAN].resolution == pytest.approx(math.log1p(0.25 / 2.0))
    assert {found[name].resolution for name in OTHERS} == {0.0}


def test_figures_of_speed_are_the_median_the_mean_the_lower_quartile_and_what_steps_lose() -> None:
    seconds = np.random.default_rng(0).permutation(np.sqrt(np.arange(1.0, 15.0))).tolist()
    found = speed_figures(seconds)
    assert found == {
        STEP: pytest.approx(np.median(seconds)),
        MEAN: pytest.approx(np.mean(seconds)),
        QUARTILE: pytest.approx(np.quantile(seconds, 0.25)),
        LOST: pytest.approx(np.mean(seconds) - np.median(seconds)),
    }
    assert speed_figures([3.5])[STEP] == 3.5
    assert speed_figures([3.0, 1.0]) == {STEP: 2.0, MEAN: 2.0, QUARTILE: 1.5, LOST: 0.0, TICK: 1.0}


def test_figures_say_where_the_time_went_a_step_and_how_often_it_was_asked_for(synthetic_record: Any) -> None:
    """Calls and bytes of a summary are those of the whole run, of 20 steps."""
    summary = replace(
        summarise(synthetic_record()),
        phase_seconds={"forward": 0.5},
        collective_seconds={"data all_reduce": 0.25},
        collective_calls={"data all_reduce": 60},
        collective_bytes={"data all_reduce": 4000},
        module_seconds={"mlp.experts": 0.125},
    )
    found = {name: value for name, value in figures_of(summary).items() if "." in name}
    assert found == {
        "phase_seconds.forward": 0.5,
        "collective_seconds.data all_reduce": 0.25,
        "collective_calls.data all_reduce": 3.0,
        "collective_bytes.data all_reduce": 200.0,
        "module_seconds.mlp.experts": 0.125,
    }


def test_a_log_that_knows_no_memory_is_not_judged_by_it(synthetic_record: Any) -> None:
    summary = summarise(synthetic_record())
    assert figures_of(summary)["peak_bytes"] == summary.peak.max_bytes
    assert "peak_bytes" not in figures_of(replace(summary, peak=replace(summary.peak, max_bytes=0)))

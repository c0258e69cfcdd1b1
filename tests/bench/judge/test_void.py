"""What makes a run void: pairs that its experts did not get, and learning that is not another run's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge
from bench.judge.parity import (
    GRAD_NORM,
    GRAD_NORM_TOLERANCE_PERCENT,
    LOSS,
    LOSS_TOLERANCE_PERCENT,
    Traces,
    first_departure,
)
from bench.judge.stats import summarise
from bench.judge.void import lost_pairs, why_apart, why_invalid, why_learning_differs, why_void
from bench.records.origin import why_several_programs


def test_lost_pairs_are_told_by_layer_and_so_is_a_surplus() -> None:
    told = lost_pairs([[600, 400], [600, 399], [600, 402]], routed_pairs=1000)
    assert told == [
        "layer 1: 1 of 1,000 (token, expert) pairs were dropped",
        "layer 2: its experts got 1,002 (token, expert) pairs, but 1,000 were routed",
    ]
    assert lost_pairs([[600, 399]], routed_pairs=None) == []
    assert lost_pairs([], routed_pairs=1000) == []


def test_pairs_that_the_recipe_has_dropped_make_up_for_those_that_experts_did_not_get() -> None:
    load = [[600, 390], [600, 395]]
    assert lost_pairs(load, routed_pairs=1000, dropped=15) == []
    assert lost_pairs(load, routed_pairs=1000, dropped=14) == [
        "experts got 1,985 (token, expert) pairs and 14 were dropped, but 2,000 were routed"
    ]


@pytest.mark.parametrize(("mfu", "is_void"), [(None, False), (0.5, False), (1.0, False), (1.01, True), (1.2, True)])
def test_a_speed_above_the_stated_peak_is_void_and_the_peak_itself_is_not(
    mfu: float | None, is_void: bool, synthetic_record: Any
) -> None:
    record = synthetic_record()
    why = why_void(record, replace(summarise(record), mfu=mfu))
    assert why == (
        f"{mfu:.0%} of the device's stated peak is impossible; check peak_flops_per_second" if is_void else None
    )


def test_a_run_of_too_few_steady_steps_is_void(synthetic_record: Any) -> None:
    record = synthetic_record()
    assert why_void(record, replace(summarise(record), steady_steps=3)) is None
    assert why_void(record, replace(summarise(record), steady_steps=2)) == "2 steady steps of 20, at least 3 needed"


def test_pairs_that_were_dropped_make_a_run_void_by_the_first_such_layer(synthetic_record: Any) -> None:
    plain = synthetic_record()
    pairs = len(plain.steps) * plain.work.tokens_per_step * 2
    routed = {"recipe": {"resolved": {"model": {"experts_per_token": 2}}}}
    whole, less, least = ([pairs - dropped, 0] for dropped in (0, 5, 9))
    for load, told in (([whole, less, least], "layer 1: 5 of"), ([least, less], "layer 0: 9 of")):
        record = synthetic_record(expert_load=load, **routed)
        assert str(why_void(record, summarise(record))).startswith(told)
    record = synthetic_record(expert_load=[whole], **routed)
    assert why_void(record, summarise(record)) is None


@pytest.mark.parametrize(
    ("reasons", "told"),
    [(["a"], "a"), (["a", "b"], "a (and 1 more reason)"), (["a", "b", "c"], "a (and 2 more reasons)")],
)
def test_a_run_that_is_invalid_says_why_and_how_many_reasons_more(
    reasons: list[str], told: str, synthetic_record: Any
) -> None:
    assert why_invalid(synthetic_record(valid=False, void_reasons=reasons)) == told
    assert why_invalid(synthetic_record()) is None


def test_learning_is_compared_with_one_run_of_a_baseline_in_both_traces(synthetic_record: Any) -> None:
    """The first: its loss and gradient norm are of one run."""
    ours = synthetic_record(seed=9)
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    first, *others = stored.runs
    odd = first.model_copy(update={"losses": [1.0] * 20, "grad_norms": [7.0] * 20})
    assert why_learning_differs([ours], [stored]) is None
    assert why_learning_differs([ours], [stored.model_copy(update={"runs": [first, odd, *others]})]) is None
    assert "step 1: " in str(why_learning_differs([ours], [stored.model_copy(update={"runs": [odd, *others]})]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"commit": {"sha": "1" * 40}}, "commit is {sha} in run {first} and 111111111111 in run {other}"),
        ({"software": {"torch": "2.8.0"}}, "software: torch is 2.7.1 in run {first} and 2.8.0 in run {other}"),
        (
            {"code_digests": {"grok1": "1" * 64}},
            "digest of grok1's sources is not stated in run {first} and 111111111111 in run {other}",
        ),
    ],
)
def test_runs_of_several_programs_are_judged_by_no_baseline_that_one_of_them_could_be(
    changes: dict[str, Any], told: str, synthetic_record: Any
) -> None:
    """In either order: of runs of equal length all are looked at."""
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    ours, other = synthetic_record(seed=8), synthetic_record(seed=9, **changes)
    sha = str(ours.commit.sha)[:12]
    assert why_apart([ours, ours], [stored]) is None
    assert why_apart([ours, other], []) is None
    expected = told.format(sha=sha, first=ours.id[:8], other=other.id[:8])
    assert why_apart([ours, other], [stored]) == f"runs of several programs: {expected}; judge those of each alone"
    assert [judge(runs, [stored]).state for runs in ([ours, other], [other, ours])] == ["void", "void"]
    assert judge([ours, other], []).state == "no_baseline"
    assert judge([ours, ours], [stored]).state == "pass"


def test_changes_of_a_tree_that_touch_no_sources_are_no_other_program(synthetic_record: Any) -> None:
    """As an edit of the README between two runs."""
    digests = {"code_digests": {"grok1": "1" * 64}}
    clean, dirty = (synthetic_record(commit={"dirty": is_dirty}, **digests) for is_dirty in (False, True))
    assert why_several_programs([clean, dirty]) is None
    unknown = synthetic_record(commit={"dirty": True})
    assert "uncommitted changes" in str(why_several_programs([clean, unknown]))
    other = synthetic_record(commit={"sha": "1" * 40}, **digests)  # what measures may be another
    assert "commit is " in str(why_several_programs([clean, other]))


def test_a_baseline_that_never_fails_a_run_voids_none(synthetic_record: Any) -> None:
    runs = [synthetic_record(seed=seed) for seed in range(5)]
    stored = recorded_baseline(runs, "invented")
    other = [run.model_copy(update={"losses": [1.7 * (each or 0.0) for each in run.losses]}) for run in stored.runs]
    compared = stored.model_copy(update={"role": "compare", "label": "other", "runs": other})
    assert judge(runs[:3], [stored, compared]).state == "pass"
    assert judge(runs[:3], [stored, compared.model_copy(update={"role": "judge"})]).state == "void"


def test_the_losses_are_those_of_the_first_run_that_has_some(synthetic_record: Any) -> None:
    runs = [synthetic_record(seed=seed) for seed in range(5)]
    stored = recorded_baseline(runs, "invented")
    first = stored.runs[0].model_copy(update={"losses": [], "grad_norms": []})
    others = [
        run.model_copy(update={"losses": [1.7 * (each or 0.0) for each in run.losses]}) for run in stored.runs[1:]
    ]
    assert judge(runs[:3], [stored.model_copy(update={"runs": [first, *others]})]).state == "void"


def traces(losses: list[float | None], grad_norms: list[float | None]) -> Traces:
    return {LOSS: losses, GRAD_NORM: grad_norms}


def test_the_first_step_that_departs_is_found_whichever_trace_it_is_in() -> None:
    theirs = traces([10.0, 9.0, 8.0], [2.0, 2.0, 2.0])
    found = first_departure(traces([10.0, 9.0, 9.0], [2.0, 3.0, 2.0]), theirs)
    assert found is not None
    assert (found.index, found.name, found.ours, found.theirs) == (1, GRAD_NORM, 3.0, 2.0)
    found = first_departure(traces([10.0, 19.0], [2.0, 3.0]), theirs)
    assert found is not None
    assert (found.index, found.name, found.tolerance_percent) == (1, LOSS, LOSS_TOLERANCE_PERCENT)


def test_only_values_that_both_have_are_compared() -> None:
    theirs = traces([10.0, None, 8.0], [])
    assert first_departure(traces([None, 5.0], [7.0, 7.0]), theirs) is None


@pytest.mark.parametrize(
    ("name", "tolerance"), [(LOSS, LOSS_TOLERANCE_PERCENT), (GRAD_NORM, GRAD_NORM_TOLERANCE_PERCENT)]
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_tolerance_is_of_the_other_runs_value(name: str, tolerance: float, sign: int) -> None:
    theirs = traces([100.0], [100.0])
    for beyond in (-0.01, 0.01):
        ours = {**theirs, name: [100.0 + sign * (tolerance + beyond)]}
        assert (first_departure(ours, theirs) is not None) == (beyond > 0)

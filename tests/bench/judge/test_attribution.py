"""Which part of a step moved."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench.judge.attribution import attribute
from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge
from bench.judge.metrics import COLLECTIVE, MODULE, PHASE, STEP, figures_of
from bench.judge.stats import summarise
from bench.records.record import Record

BEFORE = {
    STEP: 1.0,
    PHASE + "forward": 0.4,
    PHASE + "backward": 0.5,
    COLLECTIVE + "tensor all_gather": 0.1,
    "collective_calls.tensor all_gather": 96.0,
    "collective_bytes.tensor all_gather": 1e6,
}


def test_the_phase_that_moved_most_comes_first_with_its_share_of_the_change() -> None:
    after = BEFORE | {STEP: 1.2, PHASE + "forward": 0.42, PHASE + "backward": 0.68}
    found = attribute([BEFORE] * 5, [after] * 3)
    assert found.step_change_seconds == pytest.approx(0.2)
    assert [(part.name, round(part.share, 9)) for part in found.parts[:2]] == [("backward", 0.9), ("forward", 0.1)]
    assert found.sentence.startswith("the step moved +0.2 s, most in backward +0.18 s")
    assert found.counted == ()


def test_a_collective_too_many_is_named_exactly() -> None:
    after = BEFORE | {STEP: 1.1, PHASE + "forward": 0.5, COLLECTIVE + "tensor all_gather": 0.2}
    after |= {"collective_calls.tensor all_gather": 97.0, "collective_calls.data all_reduce": 1.0}
    sentence = attribute([BEFORE] * 5, [after] * 3).sentence
    assert "forward +0.1 s (of it tensor all_gather +0.1 s)" in sentence
    assert "tensor all_gather: 96 calls a step became 97" in sentence
    assert "data all_reduce: 0 calls a step became 1" in sentence


def test_a_collective_that_is_gone_became_none() -> None:
    """Where the new runs count any at all."""
    after = {name: value for name, value in BEFORE.items() if not name.startswith("collective_")}
    after |= {STEP: 0.9, "collective_calls.data all_reduce": 2.0}
    found = attribute([BEFORE] * 5, [after] * 3)
    assert [(each.name, each.unit, each.before, each.after) for each in found.counted] == [
        ("tensor all_gather", "calls", 96.0, 0.0),
        ("data all_reduce", "calls", 0.0, 2.0),
    ]


def test_faster_is_attributed_too_and_what_went_the_other_way_is_not_blamed() -> None:
    after = BEFORE | {STEP: 0.8, PHASE + "forward": 0.15, PHASE + "backward": 0.55}
    found = attribute([BEFORE] * 5, [after] * 3)
    assert found.parts[-1].share == pytest.approx(-0.25)
    assert "most in forward -0.25 s" in found.sentence
    assert "backward" not in found.sentence


@pytest.mark.parametrize(("seconds", "is_named"), [(0.002, False), (0.018, False), (0.022, True)])
def test_a_part_of_less_than_a_tenth_of_the_change_is_not_named(seconds: float, is_named: bool) -> None:
    """It stands in the list of parts all the same."""
    after = BEFORE | {STEP: 1.2, PHASE + "forward": 0.4 + seconds, PHASE + "backward": 0.7 - seconds}
    found = attribute([BEFORE] * 5, [after] * 3)
    assert ("forward" in found.sentence) == is_named
    assert {part.name: part.share for part in found.parts}["forward"] == pytest.approx(seconds / 0.2)


def test_a_module_is_named_with_what_it_took_of_the_profiled_step() -> None:
    before = BEFORE | {MODULE + "mlp.router": 0.1, MODULE + "mlp.experts": 0.7}
    after = before | {STEP: 1.2, PHASE + "forward": 0.6, MODULE + "mlp.router": 0.35, MODULE + "mlp.experts": 0.71}
    found = attribute([before] * 5, [after] * 3)
    assert "; of the modules mlp.router +0.25 s of a profiled step" in found.sentence
    assert "experts" not in found.sentence
    assert "modules" not in attribute([BEFORE] * 5, [after] * 3).sentence, "the stored runs timed none"


def test_a_part_that_only_one_side_has_took_no_time_on_the_other() -> None:
    after = BEFORE | {STEP: 1.2, PHASE + "checkpoint": 0.3}
    found = {part.name: part for part in attribute([BEFORE] * 5, [after] * 3).parts}["checkpoint"]
    assert (found.kind, found.before_seconds, found.after_seconds) == ("phase", 0.0, 0.3)
    assert found.share == pytest.approx(1.5)
    gone = {part.name: part for part in attribute([after] * 5, [BEFORE] * 3).parts}["checkpoint"]
    assert (gone.before_seconds, gone.after_seconds) == (0.3, 0.0)
    assert gone.share == pytest.approx(1.5)


def test_sides_are_compared_by_their_medians() -> None:
    others = [BEFORE | {STEP: step, PHASE + "forward": step / 2} for step in (1.0, 1.4, 9.0)]
    found = attribute([BEFORE] * 5, others)
    assert found.step_change_seconds == pytest.approx(0.4)
    assert found.parts[0].change_seconds == pytest.approx(0.3)


def test_nothing_recorded_says_nothing() -> None:
    assert attribute([{STEP: 1.0}], [{STEP: 2.0}]).sentence == ""
    assert attribute([BEFORE], [{STEP: 2.0}]).sentence == "", "a log that has no phases has not lost them"


def _slower_in(record: Record, phase: str, seconds: float) -> Record:
    """The record with so much more in one phase of every step of every rank."""
    ranks = [
        rank.model_copy(
            update={
                "step_seconds": [each + seconds for each in rank.step_seconds],
                "phases_seconds": rank.phases_seconds
                | {phase: [each + seconds for each in rank.phases_seconds[phase]]},
            }
        )
        for rank in record.ranks
    ]
    return record.model_copy(update={"ranks": ranks})


def test_a_verdict_says_where(synthetic_record: Any) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    slower = [_slower_in(synthetic_record(seed=seed), "backward", 4.0) for seed in range(10, 15)]
    verdict = judge(slower, [stored])
    assert verdict.state == "fail"
    assert "most in backward +" in verdict.sentence
    assert {row.metric for row in verdict.rows if row.state == "fail"} >= {STEP, PHASE + "backward"}
    assert PHASE + "forward" not in {row.metric for row in verdict.rows if row.state == "fail"}


def test_a_step_that_waits_in_one_phase_more_and_another_less_still_fails_there(synthetic_record: Any) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    moved = [
        _slower_in(_slower_in(synthetic_record(seed=seed), "backward", 4.0), "forward", -4.0) for seed in range(10, 15)
    ]
    verdict = judge(moved, [stored])
    assert verdict.state == "fail"
    assert re.search(r"backward is 10\.\d % of a step higher than in its baseline", verdict.sentence)


def test_figures_are_flat_and_finite(synthetic_record: Any) -> None:
    figures = figures_of(summarise(synthetic_record()))
    assert figures[STEP] > 0
    assert {PHASE + "forward", "peak_bytes", "skew_seconds", "mean_step_seconds"} <= figures.keys()
    assert all(isinstance(value, float) for value in figures.values())

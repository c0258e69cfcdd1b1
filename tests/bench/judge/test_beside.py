"""A measured step beside what was expected of it: parts, their order, and what a verdict says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.judge.baseline import recorded_baseline
from bench.judge.beside import Beside, beside, exchange_of, expectation_for, median_beside, with_expectations
from bench.judge.gate import judge
from bench.judge.stats import summarise
from bench.plan import predict
from bench.records import expectation as expectations
from bench.records.expectation import Expectation, read_expectations, write_expectations
from bench.records.record import Record

TERMS = {
    "products": 20.0, "attention": 2.0, "memory": 3.0, "host": 1.0, "tensor": 4.0, "expert": 3.0, "pipeline": 0.5,
    "bubble": 1.5, "data": 1.0, "optimizer": 2.0,
}  # fmt: skip


def expected(record: Record, **changes: Any) -> Expectation:
    terms = changes.get("terms", TERMS)
    hidden = {"tensor", "expert", "context", "pipeline", "data", "bubble"} if record.lone_rank else set()
    step = sum(seconds for name, seconds in terms.items() if name not in hidden)
    return Expectation.model_validate(
        {
            "recipe_hash": record.recipe.hash,
            "device_name": record.device.name,
            "lone_rank": record.lone_rank,
            "profile": "a-chip",
            "step_seconds": step,
            "low_seconds": 0.8 * step,
            "high_seconds": 1.25 * step,
            "level": 0.9,
            "terms": terms,
            "basis": ["ten rows"],
            **changes,
        }
    )


def measured(record: Record, phases: dict[str, float], collectives: dict[str, float], step: float = 40.0) -> Record:
    """The record with these seconds in every step of every rank."""
    content = record.model_dump(mode="json", by_alias=True)
    steps = len(record.steps)
    for rank in content["ranks"]:
        rank["step_seconds"] = [step] * steps
        rank["phases_seconds"] = {name: [seconds] * steps for name, seconds in phases.items()}
        rank["collectives"] = {
            name: {"seconds": [seconds] * steps, "calls": steps, "bytes": steps}
            for name, seconds in collectives.items()
        }
        if collectives:
            rank["communication_seconds"] = [sum(collectives.values())] * steps
            rank["communication_calls"] = rank["communication_bytes"] = [len(collectives)] * steps
    return Record.model_validate(content)


PHASES = {"forward": 12.0, "backward": 24.0, "pipeline": 1.0, "gradients": 0.5, "optimizer": 2.0, "report": 0.1}
COLLECTIVES = {
    "tensor all_gather_into_tensor": 3.0,
    "expert-tensor x expert all_to_all_single": 9.0,
    "expert-data reduce_scatter_tensor": 0.4,
    "world all_reduce": 0.1,
}


def found_of(record: Record, **changes: Any) -> Beside:
    return beside(record, summarise(record), expected(record, **changes))


def test_each_part_holds_what_both_sides_tell_and_the_worst_comes_first(synthetic_record) -> None:
    found = found_of(measured(synthetic_record(), PHASES, COLLECTIVES))
    told = {part.name: (part.expected_seconds, part.measured_seconds or 0.0) for part in found.parts}
    assert list(told) == ["expert", "after the pipeline", "tensor", "pipeline and bubble", "computing"]
    seconds = [(3.0, 9.0), (3.0, 2.6), (4.0, 3.0), (2.0, 1.0), (26.0, 36.0 - 12.0)]
    assert [one for each in told.values() for one in each] == pytest.approx([one for each in seconds for one in each])
    assert found.step.measured_seconds == pytest.approx(40.0)
    assert "a-chip is expected to take 38 s a step (30.4 to 47.5), and most beyond that is in expert, +6 s" in (
        found.sentence
    )


def test_parts_have_the_steps_interval_in_proportion(synthetic_record) -> None:
    record = measured(synthetic_record(), PHASES, COLLECTIVES)
    by_name = {part.name: part for part in found_of(record).parts}
    assert by_name["expert"].low_seconds == pytest.approx(2.4)
    assert by_name["expert"].high_seconds == pytest.approx(3.75)
    assert by_name["expert"].is_outside is True
    assert by_name["after the pipeline"].is_outside is False
    refused = {part.name: part for part in found_of(record, low_seconds=None, high_seconds=None).parts}
    assert refused["expert"].is_outside is None


def test_a_log_has_the_step_alone(synthetic_record) -> None:
    found = found_of(measured(synthetic_record(), {}, {}))
    assert {part.measured_seconds for part in found.parts} == {None}
    assert found.step.excess_seconds == pytest.approx(2.0)
    assert found.sentence.endswith("(30.4 to 47.5)")


def test_without_seconds_of_collectives_computing_is_not_told_apart(synthetic_record) -> None:
    by_name = {part.name: part.measured_seconds for part in found_of(measured(synthetic_record(), PHASES, {})).parts}
    assert by_name["computing"] is by_name["tensor"] is None
    assert by_name["pipeline and bubble"] == pytest.approx(1.0)


def test_a_job_of_one_rank_exchanges_nothing_and_computes_all_the_time(synthetic_record) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    one = dict.fromkeys(content["layout"], 1)
    content["recipe"]["resolved"]["parallel"] |= one
    content |= {"layout": one, "ranks": content["ranks"][:1], "work": content["work"] | {"num_micro_batches": 128}}
    by_name = {part.name: part for part in found_of(measured(Record.model_validate(content), PHASES, {})).parts}
    assert by_name["computing"].measured_seconds == pytest.approx(36.0)
    assert by_name["tensor"].measured_seconds == 0.0


def test_a_rank_alone_is_expected_to_do_its_own_work_and_no_more(lone_record) -> None:
    found = found_of(measured(lone_record(), PHASES, COLLECTIVES))
    assert found.step.expected_seconds == pytest.approx(28.0)
    by_name = {part.name: part for part in found.parts}
    assert by_name["computing"].measured_seconds == pytest.approx(36.0)
    assert by_name["after the pipeline"].terms == ("optimizer",)
    assert by_name["after the pipeline"].expected_seconds == 2.0
    assert by_name["expert"].measured_seconds is by_name["pipeline and bubble"].measured_seconds is None


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("tensor", "tensor"), ("tensor x context", "tensor"), ("context", "context"), ("expert", "expert"),
        ("expert-tensor", "expert"), ("expert-tensor x expert", "expert"), ("expert-data", None), ("data", None),
        ("expert-tensor x expert x pipeline", None), ("tensor x pipeline", None), ("world", None), ("other", None),
    ],
)  # fmt: skip
def test_groups_of_forward_and_backward_are_exchanges(group: str, part: str | None) -> None:
    assert exchange_of(group) == part


@given(st.dictionaries(st.sampled_from(sorted(TERMS)), st.floats(1e-6, 1e3), min_size=1))
def test_parts_add_up_to_the_expected_step(terms: dict[str, float]) -> None:
    from bench.synthetic import build_synthetic_record

    record = build_synthetic_record()
    found = found_of(record, terms=terms)
    assert sum(part.expected_seconds for part in found.parts) == pytest.approx(found.step.expected_seconds)


def test_a_verdict_that_says_where_time_went_says_what_was_expected(synthetic_record) -> None:
    baseline = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "stored")
    slow = [synthetic_record(seed=seed, median_seconds=50.0) for seed in range(10, 15)]
    verdict = judge(slow, [baseline])
    (told,) = with_expectations([verdict], [slow], [expected(slow[0])])
    assert told.attribution is not None
    assert "a-chip is expected to take 38 s a step" in told.attribution.expected
    assert told.sentence == f"{verdict.sentence}. Expected: {told.attribution.expected}"
    assert told.state == "fail"
    other = expected(slow[0], device_name="another")
    assert with_expectations([verdict], [slow], [other]) == [verdict]
    passed = judge(slow, [])
    assert with_expectations([passed], [slow], [expected(slow[0])]) == [passed]


def test_of_several_runs_the_median_valid_one_is_compared(synthetic_record) -> None:
    runs = [measured(synthetic_record(seed=seed), PHASES, COLLECTIVES, 40.0 + seed) for seed in range(4)]
    void = [
        each.model_copy(update={"valid": False, "void_reasons": ["why"]})
        for each in (measured(synthetic_record(seed=9), PHASES, COLLECTIVES, 10.0),) * 3
    ]
    assert median_beside([*void, *runs], expected(runs[0])).step.measured_seconds == pytest.approx(41.0)


def test_an_expectation_is_of_its_recipe_device_and_tier_alone(synthetic_record, lone_record) -> None:
    whole, one = synthetic_record(), lone_record()
    both = [expected(one), expected(whole)]
    assert expectation_for(whole, both) == both[1]
    assert expectation_for(one, both) == both[0]
    assert expectation_for(lone_record(6), both) is None
    assert expectation_for(synthetic_record(recipe={"hash": "f" * 12}), both) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"terms": {"magic": 1.0}}, "'magic' is none of"),
        ({"step_seconds": 1.0, "low_seconds": None, "high_seconds": None}, "its terms are 38 together"),
        ({"low_seconds": None}, "together or not at all"),
        ({"low_seconds": 39.0}, "is not between"),
        ({"level": 1.0}, "less than 1"),
        ({"more": 1}, "Extra inputs"),
        ({"terms": {"products": -1.0}}, "greater than or equal to 0"),
    ],
)
def test_an_expectation_that_contradicts_itself_is_refused(
    synthetic_record, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        expected(synthetic_record(), **changes)


def test_expectations_survive_the_trip_to_disk(synthetic_record, tmp_path: Path) -> None:
    write_expectations(tmp_path / "a.json", [expected(synthetic_record())])
    assert read_expectations(tmp_path / "a.json") == [expected(synthetic_record())]
    (tmp_path / "b.json").write_text('{"schema": 1, "expectations": [{}]}')
    with pytest.raises(ValueError, match=r"b\.json: expectations\.0\.recipe_hash"):
        read_expectations(tmp_path / "b.json")


def test_its_terms_are_the_planners() -> None:
    assert set(expectations.TERMS) == set(predict.TERMS)

"""Which layers lie in which stage and chunk, what is refused before a launch, and what the fullest rank holds."""

from __future__ import annotations

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError
from grok1.config.sections import Parallel
from grok1.config.stages import (
    chunk_layers,
    chunks_in_flight,
    first_rank_of_stage,
    stage_and_replica,
    stage_layers,
)

PIPELINED = (*ONE_RANK, "training.global_batch=12")


def staged(pipeline: int, layers: int, *changes: str) -> Recipe:
    words = (f"parallel.world_size={pipeline}", f"parallel.pipeline={pipeline}", f"model.num_layers={layers}")
    return load_recipe("grok1-nano", [*PIPELINED, *words, *changes])


@pytest.mark.parametrize(
    ("pipeline", "layers", "changes", "expected"),
    [
        (1, 3, (), [3]),
        (2, 4, (), [2, 2]),
        (2, 3, ("parallel.first_stage_layers=1",), [1, 2]),
        (2, 3, ("parallel.last_stage_layers=1",), [2, 1]),
        (2, 3, ("parallel.first_stage_layers=1", "parallel.last_stage_layers=2"), [1, 2]),
        (3, 7, ("parallel.last_stage_layers=1",), [3, 3, 1]),
        (4, 9, ("parallel.first_stage_layers=2", "parallel.last_stage_layers=1"), [2, 3, 3, 1]),
    ],
)
def test_the_ends_are_as_given_and_the_others_even(
    pipeline: int, layers: int, changes: tuple[str, ...], expected: list[int]
) -> None:
    assert stage_layers(layers, staged(pipeline, layers, *changes).parallel) == expected


def test_chunks_take_turns_among_the_stages() -> None:
    parallel = staged(3, 10, "parallel.virtual_pipeline=2", "parallel.last_stage_layers=2").parallel
    layers = [list(chunk_layers(10, parallel, stage, chunk)) for chunk in range(2) for stage in range(3)]
    assert layers == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]


def test_a_chunk_of_every_micro_batch_in_flight_is_counted() -> None:
    plain, interleaved = staged(2, 4).parallel, staged(2, 4, "parallel.virtual_pipeline=2").parallel
    assert [chunks_in_flight(plain, stage, 12) for stage in range(2)] == [2, 1]
    assert [chunks_in_flight(interleaved, stage, 12) for stage in range(2)] == [5, 3]
    assert [chunks_in_flight(interleaved, stage, 2) for stage in range(2)] == [4, 3]


def test_stages_are_far_apart_or_adjacent() -> None:
    words = ("parallel.world_size=8", "parallel.tensor=2", "parallel.expert_tensor=2")
    far, adjacent = (staged(2, 2, *words, f"parallel.order=tp-cp-ep-{end}").parallel for end in ("dp-pp", "pp-dp"))
    assert [first_rank_of_stage(far, stage) for stage in range(2)] == [0, 4]
    assert [first_rank_of_stage(adjacent, stage) for stage in range(2)] == [0, 2]


REFUSALS = [
    (
        1,
        4,
        ("parallel.virtual_pipeline=2",),
        "virtual_pipeline 2 with parallel.pipeline 1: .*set parallel.pipeline above 1",
    ),
    (2, 6, ("parallel.virtual_pipeline=2",), "virtual_pipeline 2 with 3 layers on stage 0 of 2: .* a divisor of 3"),
    (
        *(2, 6, ("parallel.virtual_pipeline=2", "parallel.first_stage_layers=3")),
        "virtual_pipeline 2 with 3 layers on stage 0 of 2: .* a divisor of 3",
    ),
    (
        *(2, 4, ("parallel.virtual_pipeline=2", "training.global_batch=3")),
        "virtual_pipeline 2 with parallel.pipeline 2 and 3 micro-batches: .* multiple of 2, or set virtual_pipeline=1",
    ),
    (1, 4, ("parallel.first_stage_layers=2",), "first_stage_layers 2 with parallel.pipeline 1: .* leave it out"),
    (2, 4, ("parallel.first_stage_layers=4",), "first_stage_layers 4 leave 0 of model.num_layers 4 for the other 1"),
    (3, 6, ("parallel.last_stage_layers=1",), "last_stage_layers 1 leave 5 of model.num_layers 6 for the other 2 of 3"),
    (
        *(2, 4, ("parallel.first_stage_layers=1", "parallel.last_stage_layers=2")),
        "first_stage_layers 1 and parallel.last_stage_layers 2 leave 1 over on 2 stages",
    ),
    (
        *(2, 4, ("parallel.world_size=4", "parallel.expert=2", "parallel.order=tp-cp-ep-pp-dp")),
        "order tp-cp-ep-pp-dp with 2 replicas of the dense weights and 1 of the experts: .*set parallel.order=",
    ),
]


@pytest.mark.parametrize(("pipeline", "layers", "changes", "complaint"), REFUSALS)
def test_what_megatron_would_refuse_later_is_refused_in_one_line(
    pipeline: int, layers: int, changes: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint) as refused:
        staged(pipeline, layers, *changes)
    assert "\n" not in str(refused.value)


def test_the_fullest_rank_is_that_of_the_fullest_stage() -> None:
    even, uneven = staged(2, 4), staged(2, 4, "parallel.first_stage_layers=1")
    layer = sum(staged(4, 8).parameters_per_rank()) - sum(staged(4, 4).parameters_per_rank())
    assert sum(uneven.parameters_per_rank()) - sum(even.parameters_per_rank()) == layer
    assert uneven.bytes_per_rank() > even.bytes_per_rank()
    assert staged(2, 4, "parallel.virtual_pipeline=2").bytes_per_rank() > even.bytes_per_rank()


def test_a_middle_stage_holds_neither_embedding_nor_head() -> None:
    ends = ("parallel.first_stage_layers=1", "parallel.last_stage_layers=1")
    small, large = (staged(3, 5, *ends, f"model.vocab_size={size}") for size in (512, 1024))
    assert small.parameters_per_rank() == large.parameters_per_rank()


@pytest.mark.parametrize("order", ["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"])
def test_the_first_rank_of_a_stage_lies_in_it_and_none_before_it_does(order: str) -> None:
    sizes = {"world_size": 48, "tensor": 2, "expert_tensor": 2, "context": 2, "expert": 2, "pipeline": 3}
    parallel = Parallel.model_validate({**sizes, "order": order})
    stages = [stage_and_replica(parallel, rank // 4, parallel.data) for rank in range(48)]
    for stage in range(3):
        assert next(rank for rank, at in enumerate(stages) if at == (stage, 0)) == first_rank_of_stage(parallel, stage)
    assert sorted(stages) == sorted((stage, replica) for stage in range(3) for replica in range(4) for _ in range(4))

"""Which layers lie in which pipeline stage, and in which of its model chunks. No torch.

Chunk c of stage s comes after chunk c of stage s - 1, and chunk c + 1 of stage 0 after chunk c of the last stage.
"""

from __future__ import annotations

from grok1.config.sections import Model, Parallel, divides


def stage_layers(num_layers: int, parallel: Parallel) -> list[int]:
    """Layers of each stage: the first's and the last's as given, the others' even."""
    first, last, stages = parallel.first_stage_layers, parallel.last_stage_layers, parallel.pipeline
    others = stages - bool(first) - bool(last)
    even = (num_layers - first - last) // others if others else 0
    layers = [even] * stages
    layers[0], layers[-1] = first or layers[0], last or layers[-1]
    return layers


def chunk_layers(num_layers: int, parallel: Parallel, stage: int, chunk: int) -> range:
    """The layers of a chunk, counted from 0 in the whole model."""
    sizes = [layers // parallel.virtual_pipeline for layers in stage_layers(num_layers, parallel)]
    start = chunk * sum(sizes) + sum(sizes[:stage])
    return range(start, start + sizes[stage])


def chunks_in_flight(parallel: Parallel, stage: int, num_micro_batches: int) -> int:
    """The most chunks of micro-batches that a stage keeps for their backward, under one-forward-one-backward."""
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    before = stages - stage - 1 if chunks == 1 else 2 * (stages - stage - 1) + (chunks - 1) * stages
    return min(before + 1, num_micro_batches * chunks)


def micro_batch_group(parallel: Parallel) -> int:
    """How many micro-batches run a chunk before the next chunk's turn; their number is a multiple of it."""
    return parallel.pipeline if parallel.virtual_pipeline > 1 else 1


def first_rank_of_stage(parallel: Parallel, stage: int) -> int:
    """The lowest rank in a stage."""
    between = 1 if _stages_lie_inside(parallel) else parallel.data
    return stage * parallel.tensor * parallel.context * between


def stage_and_replica(parallel: Parallel, place: int, replicas: int) -> tuple[int, int]:
    """(stage, replica) of a place among so many replicas of every stage, in the order of ranks."""
    if _stages_lie_inside(parallel):
        return place % parallel.pipeline, place // parallel.pipeline
    return place // replicas, place % replicas


def _stages_lie_inside(parallel: Parallel) -> bool:
    """Whether the stages of one replica have adjacent ranks, rather than the replicas of one stage."""
    return parallel.order.endswith("pp-dp")


def check_stages(model: Model, parallel: Parallel, num_micro_batches: int) -> None:
    """Refuse layers that do not spread over stages and chunks, micro-batches that do not interleave, and a rank order.

    megatron-core 0.12 refuses the same after the ranks have started.
    """
    _check_uneven(model.num_layers, parallel)
    if parallel.virtual_pipeline > 1:
        _check_interleaved(model.num_layers, parallel, num_micro_batches)
    if _stages_lie_inside(parallel) and parallel.pipeline > 1 and parallel.data != parallel.expert_data:
        raise ValueError(
            f"parallel.order {parallel.order} with {parallel.data} replicas of the dense weights and "
            f"{parallel.expert_data} of the experts: stages would hold other ranks for each; set "
            "parallel.order=tp-cp-ep-dp-pp, or make expert x expert_tensor equal to tensor x context"
        )


def _check_uneven(num_layers: int, parallel: Parallel) -> None:
    first, last, stages = parallel.first_stage_layers, parallel.last_stage_layers, parallel.pipeline
    if not first and not last:
        divides("parallel.pipeline", stages, "model.num_layers", num_layers)
        return
    given = " and ".join(
        f"parallel.{name}_stage_layers {layers}" for name, layers in (("first", first), ("last", last)) if layers
    )
    if stages == 1:
        raise ValueError(f"{given} with parallel.pipeline 1: one stage has all layers; leave it out")
    others, rest = stages - bool(first) - bool(last), num_layers - first - last
    if rest < others or (rest % others if others else rest):
        left = f"{rest} of model.num_layers {num_layers} for the other {others} of" if others else f"{rest} over on"
        raise ValueError(
            f"{given} leave {left} {stages} stages, which does not divide evenly; change one of them "
            "(every stage needs a layer)"
        )


def _check_interleaved(num_layers: int, parallel: Parallel, num_micro_batches: int) -> None:
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    if stages == 1:
        raise ValueError(
            f"parallel.virtual_pipeline {chunks} with parallel.pipeline 1: one stage has none to interleave with; set "
            "parallel.pipeline above 1, or virtual_pipeline=1"
        )
    for stage, layers in enumerate(stage_layers(num_layers, parallel)):
        if layers % chunks:
            raise ValueError(
                f"parallel.virtual_pipeline {chunks} with {layers} layers on stage {stage} of {stages}: each of its "
                f"chunks needs as many; set virtual_pipeline to a divisor of {layers}, or change the stage's layers"
            )
    if num_micro_batches % stages:
        raise ValueError(
            f"parallel.virtual_pipeline {chunks} with parallel.pipeline {stages} and {num_micro_batches} micro-batches:"
            f" chunks take turns every {stages}; change training.global_batch so that micro-batches are a multiple of "
            f"{stages}, or set virtual_pipeline=1"
        )

"""Counting the places of a layout one after the other, as an entry for a pool of processes that count many layouts."""

from __future__ import annotations

import gc

from bench.ledger.count import _count_rank
from bench.ledger.schema import RankLedger
from grok1.config.recipe import Recipe
from grok1.config.stages import first_rank_of_stage


def counted_places(job: tuple[Recipe, list[int]]) -> list[RankLedger]:
    """(recipe, stages): the ledger of each stage's first rank, tokens routed evenly."""
    gc.freeze()  # a count looks for cycles at its end, which takes as long as all that was imported is large
    recipe, stages = job
    experts, alike = recipe.model.num_experts, recipe.parallel.world_size // recipe.parallel.pipeline
    even = (1.0 / experts,) * experts
    counted = []
    for stage in stages:
        _forget_the_job_before()
        counted.append(_count_rank((recipe, first_rank_of_stage(recipe.parallel, stage), even, alike)))
    unknown = {name for _, names, _ in counted for name in names}
    assert not unknown, f"{recipe.name}: operators without a formula: {unknown}"
    return [ledger for ledger, _, _ in counted]


def _forget_the_job_before() -> None:
    """Leaving a job keeps these, so that the next one's ranks find themselves among its ranks, and one tensor less."""
    # here, in a process that the forkserver made: the test's own must not import torch or megatron
    from megatron.core import parallel_state
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    parallel_state._EMBEDDING_GLOBAL_RANKS = None
    parallel_state._POSITION_EMBEDDING_GLOBAL_RANKS = None
    MoEAuxLossAutoScaler.main_loss_backward_scale = None

"""Counting the places of a layout one after the other, as an entry for a pool of processes that count many layouts."""

from __future__ import annotations

from bench.ledger.count import _count_rank
from bench.ledger.schema import RankLedger
from grok1.config.recipe import Recipe
from grok1.config.stages import first_rank_of_stage


def counted_places(job: tuple[Recipe, list[int]]) -> list[RankLedger]:
    """(recipe, stages): the ledger of each stage's first rank, tokens routed evenly."""
    recipe, stages = job
    experts, alike = recipe.model.num_experts, recipe.parallel.world_size // recipe.parallel.pipeline
    even = (1.0 / experts,) * experts
    counted = [_count_rank((recipe, first_rank_of_stage(recipe.parallel, stage), even, alike)) for stage in stages]
    unknown = {name for _, names, _ in counted for name in names}
    assert not unknown, f"{recipe.name}: operators without a formula: {unknown}"
    return [ledger for ledger, _, _ in counted]

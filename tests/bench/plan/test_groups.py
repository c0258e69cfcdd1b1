"""Groups' ranks and strides from columns are those of the groups that megatron makes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from bench.plan.groups import groups_of
from grok1.config.axes import axes_text
from grok1.config.recipe import Recipe
from grok1.distributed.launch import rank_context
from tests.bench.plan.groups_entries import groups_of_first_rank
from tests.bench.plan.sample import sampled_recipes, together


@pytest.fixture(scope="module")
def made() -> list[tuple[Recipe, dict[str, list[int]]]]:
    """Recipes of every kind of layout, and rank 0's groups by name."""
    recipes = [recipe for several in sampled_recipes(66).values() for recipe in several]
    with ProcessPoolExecutor(1, mp_context=rank_context("cpu")) as pool:
        groups = pool.submit(groups_of_first_rank, [recipe.parallel for recipe in recipes]).result()
    return list(zip(recipes, groups, strict=True))


def test_every_group_has_megatrons_ranks_at_its_stride(made: list[tuple[Recipe, dict[str, list[int]]]]) -> None:
    for recipe, theirs in made:
        parallel = recipe.parallel
        for name, group in groups_of(together([recipe])).items():
            if name.endswith(" x context") and parallel.context == 1:
                continue  # megatron's has the narrower one's ranks, and the ledger its name
            ranks, stride = theirs[name], int(group.stride[0])
            assert int(group.ranks[0]) == len(ranks), (name, axes_text(parallel))
            neighbours = range(0, len(ranks), parallel.context if is_in_blocks(name, recipe) else 1)
            apart = np.diff([ranks[each] for each in neighbours])
            assert set(apart.tolist()) <= {stride}, (name, axes_text(parallel), ranks)


def is_in_blocks(name: str, recipe: Recipe) -> bool:
    """Whether its ranks are not equally far apart: a context's are near, those of other replicas behind stages."""
    parallel = recipe.parallel
    return name == "data x context" and parallel.order.endswith("pp-dp") and min(parallel.pipeline, parallel.data) > 1


def test_both_orders_and_all_axes_are_among_the_layouts(made: list[tuple[Recipe, dict[str, list[int]]]]) -> None:
    found = [recipe.parallel for recipe, _ in made]
    for axis in ("tensor", "context", "pipeline", "expert", "expert_tensor", "data", "expert_data"):
        for order in ("tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"):
            assert any(getattr(each, axis) > 1 for each in found if each.order == order), (axis, order)

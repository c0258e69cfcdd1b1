"""Groups' ranks from columns are those of the groups that megatron makes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest

from bench.plan.groups import Group, groups_of
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


def test_every_group_has_megatrons_ranks(made: list[tuple[Recipe, dict[str, list[int]]]]) -> None:
    for recipe, theirs in made:
        parallel = recipe.parallel
        for name, group in groups_of(together([recipe])).items():
            if name.endswith(" x context") and parallel.context == 1:
                continue  # megatron's has the narrower one's ranks, and the ledger its name
            assert group.world_size.tolist() == [parallel.world_size]
            assert int(group.ranks[0]) == len(theirs[name]), (name, axes_text(parallel))
            assert first_of(group) == theirs[name], (name, axes_text(parallel))


def first_of(group: Group) -> list[int]:
    """The ranks of rank 0's group."""
    stride, run, between, runs = (int(each[0]) for each in (group.stride, group.run, group.between, group.runs))
    neighbours = sorted({0, run - 1}) if group.has_ends else range(run)
    return [stride * (run * between * each + place) for each in range(runs) for place in neighbours]


def test_both_orders_and_all_axes_are_among_the_layouts(made: list[tuple[Recipe, dict[str, list[int]]]]) -> None:
    found = [recipe.parallel for recipe, _ in made]
    for axis in ("tensor", "context", "pipeline", "expert", "expert_tensor", "data", "expert_data"):
        for order in ("tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"):
            assert any(getattr(each, axis) > 1 for each in found if each.order == order), (axis, order)

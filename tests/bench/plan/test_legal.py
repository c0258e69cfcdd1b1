"""The planner's rules against the recipe's own: what they let pass is what the recipe accepts, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.layout_text import layout_named, layout_text
from bench.plan.layouts import Layouts, Recompute, layouts_of
from bench.plan.legal import EVERY_AXIS, SPLITS, legal_layouts, recipe_of
from bench.plan.rules import legal
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError
from tests.bench.plan.sample import RECIPES, sampled_recipes, together

SMALL = ("model.num_layers=4", "training.global_batch=4", "model.num_experts=4", "kernels.linear=megatron")
RECOMPUTES = (
    Recompute(),
    Recompute("full"),
    Recompute("full", layers=2),
    Recompute("full", layers=3),
    Recompute("full", "block", 1),
    Recompute("full", "block", 3),
    Recompute("selective"),
    Recompute("selective", modules=("core_attn", "core_attn")),
    Recompute("selective", modules=("layernorm", "moe")),
    Recompute("selective", modules=("moe_act",)),
    Recompute("selective", modules=("moe", "moe_act")),
)
KINDS = {
    "as shipped": ("grok1-nano", *SMALL),
    "merged, MC2": ("grok1-nano", *SMALL, "kernels.linear=mc2"),
    "uneven first": ("grok1-nano", *SMALL, "model.num_layers=5", "parallel.first_stage_layers=1"),
    "uneven both": ("grok1-nano", *SMALL, "model.num_layers=6", "parallel.first_stage_layers=2")
    + ("parallel.last_stage_layers=4",),
    "capacity": ("grok1-nano", *SMALL, "kernels.dispatch=megatron", "training.expert_capacity_factor=1.7"),
    "six tokens": ("grok1-nano", *SMALL, "training.sequence_length=6"),  # that two context ranks cannot halve each
    "grouped": ("grok1-nano", *SMALL, "kernels.experts=grouped", "training.dtype=bf16"),
    "engine's attention": ("grok1-nano", *SMALL, "kernels.attention=te"),
}
AXES: dict[str, tuple[int, ...]] = {
    "world_size": (1, 4, 6, 8, 16),
    "tensor": (1, 2, 3, 4),
    "context": (1, 2, 3),
    "context_exchange": (0, 1),
    "pipeline": (1, 2, 3, 4),
    "virtual_pipeline": (1, 2),
    "expert": (1, 2, 3),
    "expert_tensor": (1, 2, 4),
    "micro_batch": (1, 2, 3),
    "dispatcher": (0, 1),
    "order": (0, 1),
    "recompute": tuple(range(len(RECOMPUTES))),
}


def candidates(recipe: Recipe, rows: list[tuple[int, ...]]) -> Layouts:
    values = np.array(rows, np.int64).T
    columns: dict[str, Any] = dict(zip(AXES, values, strict=True))
    return Layouts(recipe, RECOMPUTES, **columns)


def drawn(seed: int, count: int) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.choice(values) for values in AXES.values()) for _ in range(count)]


def columns_of(layouts: Layouts) -> dict[str, Any]:
    return {name: getattr(layouts, name) for name in AXES}


def is_accepted(layouts: Layouts, row: int) -> bool:
    try:
        recipe_of(layouts, row)
    except RecipeError:
        return False
    return True


def is_block(recipe: Recipe) -> bool:
    return recipe.training.recompute_method == "block"


def unlike(layouts: Layouts) -> Iterator[tuple[str, bool]]:
    """(layout, whether the recipe accepts it) of those where the rules say the other."""
    for row, is_legal in enumerate(legal(layouts.recipe, columns_of(layouts), layouts.recomputes).tolist()):
        if is_legal != is_accepted(layouts, row):
            yield layout_text(layouts, row), not is_legal


def base(kind: str) -> Recipe:
    """A recipe of that kind in some layout that it accepts."""
    name, *changes = KINDS[kind]
    shapes = dict.fromkeys(("uneven both", "uneven first"), ("parallel.pipeline=2",)) | {"six tokens": ONE_RANK}
    shape = shapes.get(kind, ())
    recipe: Recipe = load_recipe(name, [*changes, *shape])
    return recipe


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_are_the_recipes_own(kind: str) -> None:
    """Most of what is drawn is refused: each row is also tried with its dense and its expert ranks made to fit."""
    rows = drawn(7, 700)
    names = list(AXES)
    for row in list(rows):
        at = dict(zip(names, row, strict=True))
        at["world_size"] = at["tensor"] * at["context"] * at["pipeline"] * (1 + at["dispatcher"])
        rows.append(tuple(at.values()))
        rows.append(tuple((at | {"context": 1, "expert": at["tensor"], "expert_tensor": 1, "recompute": 0}).values()))
    layouts = candidates(base(kind), rows)
    assert list(unlike(layouts)) == []
    accepted = legal(layouts.recipe, columns_of(layouts), RECOMPUTES)
    assert 10 < accepted.sum() < len(rows) - 10


def test_every_combination_of_splits_is_judged_as_the_recipe_does() -> None:
    """All of one small recipe on 8 ranks, legal or not."""
    sizes = AXES | {name: AXES[name][:1] for name in ("context_exchange", "order", "recompute", "dispatcher")}
    sizes |= {"world_size": (8,), "context": (1, 2), "virtual_pipeline": (1,), "micro_batch": (1, 2)}
    layouts = candidates(base("as shipped"), list(product(*sizes.values())))
    assert list(unlike(layouts)) == []


def test_heads_that_a_context_cannot_share_are_refused_as_the_recipe_does() -> None:
    """Four query groups among three context ranks, which six tokens allow."""
    sizes = {name: values[:1] for name, values in AXES.items()} | {"world_size": (3, 6), "pipeline": (1, 2)}
    sizes |= {"context": (1, 3), "context_exchange": (0, 1)}
    layouts = candidates(base("six tokens"), list(product(*sizes.values())))
    assert list(unlike(layouts)) == []
    assert 0 < legal(layouts.recipe, columns_of(layouts), RECOMPUTES).sum() < len(layouts)


@pytest.mark.parametrize(("name", "ranks", "found"), [("grok1-40b", 16, 514), ("grok1-314b", 256, 2148)])
def test_every_combination_of_a_full_size_job_is_judged_as_the_recipe_does(name: str, ranks: int, found: int) -> None:
    """The numbers that docs/planner.md states."""
    own = layouts_of(load_recipe(name))
    sizes = {axis: tuple(getattr(own, axis).tolist()) for axis in AXES} | {"world_size": (ranks,)}
    divisors = tuple(2**power for power in range(9))
    sizes |= dict.fromkeys(("tensor", "expert"), divisors[:4])
    sizes |= dict.fromkeys(("pipeline", "expert_tensor", "micro_batch"), divisors)
    columns: dict[str, Any] = dict(zip(sizes, np.array(list(product(*sizes.values())), np.int64).T, strict=True))
    layouts = Layouts(own.recipe, own.recomputes, **columns)
    assert list(unlike(layouts)) == []
    assert legal(own.recipe, columns, own.recomputes).sum() == found == len(legal_layouts(own.recipe, ranks))


@given(st.tuples(*(st.sampled_from(values) for values in AXES.values())), st.sampled_from(sorted(KINDS)))
def test_any_layout_is_judged_as_the_recipe_does(row: tuple[int, ...], kind: str) -> None:
    assert list(unlike(candidates(base(kind), [row]))) == []


def test_layouts_that_are_found_are_accepted_and_come_back() -> None:
    """A sample of the large recipes': each makes a recipe, whose layout is that row again."""
    draw = random.Random(3)
    for name, ranks in (("grok1-40b", 16), ("grok1-314b", 256), ("grok1-nemo-64", 128), ("grok1-levers-16", 16)):
        layouts = legal_layouts(load_recipe(name), ranks, (*SPLITS, "virtual_pipeline", "dispatcher", "recompute"))
        for row in draw.sample(range(len(layouts)), 20):
            again = layouts_of(recipe_of(layouts, row))
            assert layout_text(again, 0) == layout_text(layouts, row)
            assert again.recipe.parallel.world_size == ranks


def test_a_search_finds_what_the_sample_drew() -> None:
    """The sample's layouts come from the recipes alone: each is among those that are found over every axis.

    Of full recompute a search finds one of those that do the same, so the plainest stands for it here.
    """
    drawn_recipes = [each for recipes in sampled_recipes(len(RECIPES)).values() for each in recipes]
    plain = [each for each in drawn_recipes if each.training.recompute_layers == 1 and not is_block(each)]
    assert len(plain) > len(RECIPES) // 2
    for recipe in plain:
        own, found = layouts_of(recipe), legal_layouts(recipe, axes=EVERY_AXIS)
        same = ["recompute"]  # with what does nothing: the order of one stage's ranks, the exchange of no context
        same += ["order"] * bool(own.pipeline[0] == 1 or own.data[0] == 1)
        same += ["context_exchange"] * bool(own.context[0] == 1)
        alike = np.array([each == own.recomputes[0] for each in found.recomputes])[found.recompute]
        for column in AXES:
            if column not in same:
                alike &= getattr(found, column) == getattr(own, column)[0]
        assert alike.sum() == 1, recipe.name


def test_a_search_finds_each_layout_once() -> None:
    for axes in (SPLITS, EVERY_AXIS):
        found = legal_layouts(base("as shipped"), 4, axes)
        texts = [layout_text(found, row) for row in range(len(found))]
        assert len(set(texts)) == len(texts) > 0


def test_the_number_of_layouts_of_the_40b_job_is_what_the_recipe_accepts_of_all_powers_of_two() -> None:
    recipe = load_recipe("grok1-40b", ["kernels.linear=megatron"])
    powers = [2**each for each in range(8)]
    free = {"tensor": 5, "pipeline": 5, "expert": 4, "expert_tensor": 5, "micro_batch": 8}
    sizes = {name: tuple(powers[: free[name]]) if name in free else AXES[name][:1] for name in AXES}
    rows = list(product(*(sizes | {"world_size": (16,)}).values()))
    layouts = candidates(recipe, rows)
    accepted = sum(is_accepted(layouts, row) for row in range(len(rows)))
    found = legal_layouts(recipe, 16)
    assert accepted == len(found) == 677
    assert (found.micro_batch <= 16).sum() == 541


def test_axes_that_do_not_vary_are_the_recipes() -> None:
    recipe = load_recipe("grok1-40b")
    found = legal_layouts(recipe, 16, ("micro_batch",))
    assert set(found.tensor) == {4}
    assert set(found.pipeline) == {2}
    assert found.recomputes == layouts_of(recipe).recomputes
    assert sorted(found.micro_batch.tolist()) == [1, 2, 4, 8, 16, 32, 64]


def test_where_no_layout_is_legal_the_nearest_world_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"^recipe grok1-314b has no legal layout on 17 ranks; .* are 16 and 32$"):
        legal_layouts(load_recipe("grok1-314b"), 17)


def test_where_recompute_varies_the_recipes_own_makes_no_world_size_illegal() -> None:
    """Both layers at once, which 32 ranks cannot: they need two stages."""
    one_stage = ("parallel.pipeline=1", "training.recompute=full", "training.recompute_layers=2")
    with pytest.raises(ValueError, match=r"the nearest world sizes with one are 16 and 32$"):
        legal_layouts(load_recipe("grok1-nano", one_stage), 17, (*SPLITS, "recompute"))


@pytest.mark.parametrize(("ranks", "axes"), [(0, SPLITS), (1 << 17, SPLITS), (16, ("sideways",))])
def test_impossible_questions_are_refused(ranks: int, axes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"not between 1 and 65536|sideways are none of a layout"):
        legal_layouts(load_recipe("grok1-nano"), ranks, axes)


# ---- texts ---------------------------------------------------------------------------------------------


def test_a_layout_is_read_as_it_is_written() -> None:
    for name, recipes in sampled_recipes(2 * len(RECIPES)).items():
        layouts = together(recipes)
        exchange = np.where(layouts.context > 1, layouts.context_exchange, 0)  # without a context there is none
        layouts = replace(layouts, context_exchange=exchange)
        for row, recipe in enumerate(recipes):
            named = layout_named(layout_text(layouts, row), recipe)
            assert recipe_of(named, 0).hash() == recipe_of(layouts, row).hash(), name


def test_a_layout_in_words() -> None:
    recipe = load_recipe("grok1-40b")
    assert layout_text(layouts_of(recipe), 0) == "TP4 PP2 EP2 ETP4 DP2 mb1 allgather"
    named = layout_named("tp4 PP2 ep2 ETP4 mb2 alltoall recompute full block 1", recipe)
    assert layout_text(named, 0) == "TP4 PP2 EP2 ETP4 DP2 mb2 alltoall recompute full block 1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("TP4 PP2 EP2 ETP4 sideways", r"'sideways' is none of the words of a layout; write it like TP4"),
        ("TP4 TP4", r"'TP4' says twice what is said once in a layout"),
        ("TP4 PP2 EP2 ETP4 DP3", r"says DP3, but 16 ranks leave DP2"),
        ("TP4 PP2 EP2 ETP4 recompute most", r"recompute is none, full"),
        ("TP4 PP2 EP2 ETP4 recompute full uniform 0", r"recompute is none, full"),
        ("TP5 PP2 EP2 ETP4", r"parallel.world_size 16 is not a multiple of tensor x pipeline 10"),
        ("TP4 " * 100, r"characters long"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        layout_named(text, load_recipe("grok1-40b"))
    assert "\n" not in str(refused.value)


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["TP4", "PP2", "EP8", "mb\x1b1", "recompute", "full"])).map(" ".join)
)
def test_any_text_is_a_layout_or_refused_in_one_printable_line(text: str) -> None:
    complaint = ""
    try:
        layout_named(text, load_recipe("grok1-nano"))
    except ValueError as error:
        complaint = str(error)
    assert complaint == "" or complaint.isprintable()

"""Which layouts fit: the recipe's own rules and sums, for all layouts at once."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bench.plan.fits import Fits, candidates, communicators, fits
from bench.plan.layout_text import layout_text
from bench.plan.layouts import different_stages, every_stage, layouts_of
from bench.plan.legal import EVERY_AXIS, SPLITS, legal_layouts, recipe_of
from bench.plan.peak import peak
from bench.plan.recount import recounted
from grok1.config.load import load_recipe
from grok1.config.memory import MARGIN_BYTES, need
from grok1.config.memory import communicators as communicators_of_recipe

GIB = 2**30
WITHOUT_ORDER = [axis for axis in EVERY_AXIS if axis != "order"]


def of_40b(available_gib: float = 60.96, **more: Any) -> Fits:
    """All layouts of the 40B job on its ranks."""
    return fits(candidates(load_recipe("grok1-40b"), 16, EVERY_AXIS), int(available_gib * GIB), **more)


@pytest.mark.parametrize("name", ["grok1-40b", "grok1-nano", "grok1-40b-tuned", "grok1-levers-16"])
def test_communicators_are_the_recipes_own_count(name: str) -> None:
    layouts = candidates(load_recipe(name), 16, EVERY_AXIS)
    found = communicators(layouts)
    for row in random.Random(1).sample(range(len(layouts)), min(200, len(layouts))):
        recipe = recipe_of(layouts, row)
        assert found[row] == communicators_of_recipe(recipe)
        assert found[row] * 2 * 200 * 10**6 == need(recipe).buffers


def test_each_layout_has_its_fullest_stage_and_the_sum_of_its_parts() -> None:
    found = of_40b()
    tensors, total = found.tensors, found.need
    for row in random.Random(2).sample(range(len(found.layouts)), 100):
        recipe = recipe_of(found.layouts, row)
        stages = peak(every_stage(layouts_of(recipe)), reuses=True).total
        assert tensors[row] == stages.max() == stages[found.stage[row]]
        assert total[row] == stages.max() + need(recipe).buffers + MARGIN_BYTES


def test_the_order_is_the_one_that_is_said() -> None:
    found = of_40b()
    rows = found.best_first()
    fitting = found.fit[rows]
    assert sorted(rows.tolist()) == list(range(len(found.layouts)))
    assert 0 < fitting.sum() < len(rows)
    assert (np.diff(fitting.astype(int)) <= 0).all()  # those that fit, first
    again = {"none": 0, "layernorm": 1, "core_attn": 3, "layernorm moe": 11, "full": 20}
    of, first = found.layouts.take(rows[fitting]), found.need[rows][fitting]
    names = [" ".join(each.modules) or each.kind for each in of.recomputes]
    splits = of.tensor * of.context * of.pipeline * of.virtual_pipeline * of.expert * of.expert_tensor
    keys = [
        (again[names[recompute]], split, -micro_batch, need)
        for recompute, split, micro_batch, need in zip(of.recompute, splits, of.micro_batch, first, strict=True)
        if names[recompute] in again
    ]
    assert keys == sorted(keys)
    assert len(keys) > 100
    assert (np.diff(found.need[rows][~fitting]) >= 0).all()


def test_in_pieces_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_40b()
    monkeypatch.setattr("bench.plan.fits._PLACES_AT_ONCE", 5_000)
    np.testing.assert_array_equal(of_40b().parts, whole.parts)


def test_stages_that_differ_are_those_of_every_stage() -> None:
    layouts = legal_layouts(load_recipe("grok1-40b"), 16, EVERY_AXIS)
    every, found = every_stage(layouts), different_stages(layouts)
    kept = (every.stage <= 1) | every.is_last
    np.testing.assert_array_equal(found.layout, every.layout[kept])
    np.testing.assert_array_equal(found.stage, every.stage[kept])
    np.testing.assert_array_equal(found.of.pipeline, every.of.pipeline[kept])


@pytest.mark.parametrize(("name", "ranks"), [("grok1-314b", 2048), ("grok1-levers-16", 16)])
def test_a_layout_alone_is_as_among_all(name: str, ranks: int) -> None:
    """What layouts share is computed once for all of them: buffers, a stage's sizes."""
    layouts = candidates(load_recipe(name), ranks, (*SPLITS, "virtual_pipeline", "recompute"))
    found = fits(layouts, 80 * GIB)
    for row in random.Random(3).sample(range(len(layouts)), min(60, len(layouts))):
        alone = fits(layouts.take([row]), 80 * GIB)
        np.testing.assert_array_equal(alone.parts[0], found.parts[row])
        assert (alone.stage[0], alone.moment[0]) == (found.stage[row], found.moment[row])


def test_a_recipes_own_recompute_takes_no_layout_of_another_choice_away() -> None:
    changes = ("training.recompute=full", "training.recompute_layers=4")
    plain, own = (candidates(load_recipe("grok1-40b", each), 16, WITHOUT_ORDER) for each in ((), changes))
    names = [{layout_text(each, row) for row in range(len(each))} for each in (plain, own)]
    assert len(names[1]) == len(own) > len(plain)
    assert names[0] < names[1]
    assert {name.partition("recompute ")[2] for name in names[1] - names[0]} == {"full uniform 4"}


def test_a_choice_of_recompute_has_one_name_however_it_is_written() -> None:
    changes = ("training.recompute=selective", 'training.recompute_modules=["moe","layernorm"]')
    layouts = candidates(load_recipe("grok1-nano", changes), 16, WITHOUT_ORDER)
    names = [layout_text(layouts, row) for row in range(len(layouts))]
    assert len(set(names)) == len(names) == len(candidates(load_recipe("grok1-nano"), 16, WITHOUT_ORDER))
    assert sum(name.endswith("selective layernorm+moe") for name in names) * 4 == len(names)


def test_of_a_chunk_that_is_all_computed_again_there_is_one_layout() -> None:
    """A block of all of its layers is the same as each for itself."""
    changes = ("training.recompute=full", "training.recompute_method=block", "training.recompute_layers=4")
    layouts = candidates(load_recipe("grok1-40b", changes), 16, WITHOUT_ORDER)
    is_block = np.array([each.method == "block" for each in layouts.recomputes])[layouts.recompute]
    chunks = layouts.pipeline * layouts.virtual_pipeline
    assert set((8 // chunks)[is_block]) == {8}
    assert 4 in 8 // chunks


def test_skew_takes_layouts_away() -> None:
    assert of_40b(skew=2.0).fit.sum() < of_40b().fit.sum()


def test_a_recipe_comes_back_from_its_row() -> None:
    for name in ("grok1-40b", "grok1-levers-16", "grok1-nemo-128"):
        recipe = load_recipe(name)
        assert recipe_of(layouts_of(recipe), 0).hash() == recipe.hash()


def test_the_ledger_recounts_a_finalist() -> None:
    layouts = legal_layouts(load_recipe("grok1-nano"), 16, ["tensor", "pipeline"])
    found, told = fits(layouts, GIB), list[str]()
    (only,) = recounted(found, [int(found.best_first()[0])], told.append)
    assert 0 <= only.above < 0.05
    assert told == [f"counting 1 of 1: {only.name}"]


def test_an_impossible_skew_has_no_recount() -> None:
    layouts = legal_layouts(load_recipe("grok1-40b"), 16, ["tensor"])
    with pytest.raises(ValueError, match=r"--skew 9 with 4 of 8 experts on a rank"):
        recounted(fits(layouts, GIB, skew=9.0), [0], lambda _line: None)

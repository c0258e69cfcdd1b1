"""The recipe's layout on fewer processors, and the jobs that the doctor runs in it."""

from __future__ import annotations

import pytest

from bench.doctor import layout
from grok1.config.load import load_recipe, recipe_names


@pytest.mark.parametrize(
    ("name", "processors", "expected"),
    [
        ("grok1-nano", 16, "16 ranks, TP4 PP2 EP2 ETP4 DP2"),
        ("grok1-nano", 8, "8 ranks, TP2 PP2 EP2 ETP2 DP2"),
        ("grok1-nano", 1, "1 rank, TP1 PP1 EP1 ETP1 DP1"),
        ("grok1-40b", 8, "8 ranks, TP2 PP2 EP2 ETP2 DP2"),
        ("grok1-40b", 7, "4 ranks, TP2 PP1 EP2 ETP2 DP2"),
        ("grok1-40b-2layer", 8, "8 ranks, TP4 PP1 EP2 ETP4 DP2"),
    ],
)
def test_a_cut_layout_keeps_as_many_kinds_of_groups_as_fit(name: str, processors: int, expected: str) -> None:
    assert layout.short(layout.cut_layout(load_recipe(name), processors)) == expected


def test_a_cut_layout_still_splits_sequences() -> None:
    recipe = load_recipe("grok1-nano", ["parallel.tensor=2", "parallel.expert_tensor=2", "parallel.context=2"])
    assert layout.short(recipe.parallel) == "16 ranks, TP2 CP2 PP2 EP2 ETP2 DP2"
    cut = layout.cut_layout(recipe, 8)
    assert layout.short(cut) == "8 ranks, TP2 CP2 PP1 EP2 ETP2 DP2"
    assert layout.nano(recipe, cut, "fp32").parallel == cut


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("processors", [1, 2, 4, 8])
def test_every_shipped_recipe_has_its_jobs_on_any_number_of_processors(name: str, processors: int) -> None:
    recipe = load_recipe(name)
    found = layout.cut_layout(recipe, processors)
    assert found.world_size <= processors
    for dtype in ("fp32", "bf16"):
        job = layout.nano(recipe, found, dtype)
        assert (job.parallel, job.training.dtype) == (found, dtype)
        assert layout.one_layer(recipe, dtype).model.activation == recipe.model.activation
    assert layout.reference_nano(found).tokens_per_step == job.tokens_per_step
    assert layout.memory_job(recipe, found).bytes_per_rank() < 40 << 30


def test_grouped_experts_are_checked_in_bf16_only() -> None:
    recipe = load_recipe("grok1-40b", ["kernels.experts=grouped"])
    assert layout.one_layer(recipe, "bf16").kernels.experts == "grouped"
    assert layout.one_layer(recipe, "fp32").kernels.experts == "sequential"

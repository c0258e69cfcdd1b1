"""The planner's bytes between steps are the ledger's, to the last one."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ledger.schema import Ledger, read_ledger
from bench.ledger.store import FOLDER, SHIPPED, counted
from bench.plan.layouts import every_stage, layouts_of
from bench.plan.memory import BetweenSteps, between_steps
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe

# what a layout and a lever change of the buffers and of what else stays; each small enough to count in seconds
SMALL = ("model.num_layers=4", "training.global_batch=64")
BF16 = ("training.dtype=bf16", "kernels.experts=sequential", "kernels.dispatch=megatron")
CASES = {
    "norms that fill no slot": ("parallel.world_size=64", "model.hidden_size=100", "parallel.expert_tensor=1"),
    "bf16 gradients": (*BF16, "training.gradient_dtype=bf16"),
    "allgather": (*BF16, "parallel.dispatcher=allgather", "parallel.expert=4", "parallel.expert_tensor=2"),
    "one local expert": (*BF16, "parallel.expert=8", "parallel.expert_tensor=1", "parallel.world_size=32"),
    "experts not apart": ("parallel.expert=1", "parallel.expert_tensor=4", "parallel.world_size=8"),
    "tied ends, buckets": (
        "model.tie_embeddings=true",
        "model.vocab_size=131072",
        "model.hidden_size=416",
        "parallel.tensor=1",
        "parallel.expert_tensor=1",
        "kernels.gradient_reduction=overlapped",
        "model.z_loss_coefficient=0.001",
    ),
    "interleaved and uneven": (
        "model.num_layers=6",
        "parallel.virtual_pipeline=2",
        "parallel.last_stage_layers=2",
        "model.tie_embeddings=true",
        "parallel.context=2",
        "parallel.tensor=2",
    ),
}


def planned(recipe: Recipe) -> BetweenSteps:
    """Of a rank of each stage."""
    return between_steps(every_stage(layouts_of(recipe)))


def differences(recipe: Recipe, ledger: Ledger) -> list[tuple[int, int, int]]:
    """By stage: of weights, of gradients, of all that stays."""
    found = planned(recipe)
    return [
        (
            int(found.weights[rank.stage]) - rank.memory.weights_bytes,
            int(found.gradients[rank.stage]) - rank.memory.gradients_bytes,
            int(found.total[rank.stage]) - rank.memory.static_bytes,
        )
        for rank in ledger.ranks
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_stored_ledgers(name: str) -> None:
    """From a third rank on, a process that counts several finds the loss's scale, 4 bytes, made by an earlier one."""
    for stage, found in enumerate(differences(load_recipe(name), read_ledger(FOLDER / f"{name}.json"))):
        assert found in ([(0, 0, 0)] if stage < 2 else [(0, 0, 0), (0, 0, 4)]), stage


@pytest.mark.parametrize("case", CASES)
def test_counted_ledgers(case: str) -> None:
    recipe = load_recipe("grok1-nano", [*SMALL, *CASES[case]])
    assert differences(recipe, counted(recipe)) == [(0, 0, 0)] * recipe.parallel.pipeline


def test_reuse_saves_two_bytes_of_each_value_that_a_rank_owns() -> None:
    recipe = load_recipe("grok1-40b", ["training.reuse_fp32_parameters=true"])
    places = every_stage(layouts_of(recipe))
    dense, expert = recipe.parameters_per_rank()
    saved = between_steps(places).total - between_steps(places, reuses=True).total
    owned = dense // recipe.parallel.data + expert // recipe.parallel.expert_data
    np.testing.assert_allclose(saved, 2 * owned, rtol=1e-3)  # the last norm is in no recipe's own count

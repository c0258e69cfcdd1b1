"""The planner's bytes between steps are the ledger's, to the last one."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ledger.schema import Ledger, read_ledger
from bench.ledger.store import FOLDER, SHIPPED
from bench.ledger.store import counted as count
from bench.plan.layouts import every_stage, layouts_of
from bench.plan.memory import BetweenSteps, between_steps
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe

# what no layout of the sample has; each small enough to count in seconds
SMALL = ("model.num_layers=4", "training.global_batch=64")
CASES = {
    "norms that fill no slot": ("parallel.world_size=64", "model.hidden_size=100", "parallel.expert_tensor=1"),
    "tied ends that fill no slot": (
        *("parallel.world_size=4", "parallel.tensor=1", "parallel.expert=1", "parallel.expert_tensor=1"),
        *("model.hidden_size=64", "model.vocab_size=321", "model.tie_embeddings=true"),
    ),
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
    ledger = read_ledger(FOLDER / f"{name}.json")
    assert differences(load_recipe(name), ledger) == [(0, 0, 0)] * len(ledger.ranks)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_counted_ledgers(case: str) -> None:
    recipe = load_recipe("grok1-nano", [*SMALL, *CASES[case]])
    assert differences(recipe, count(recipe)) == [(0, 0, 0)] * recipe.parallel.pipeline


def test_reuse_saves_two_bytes_of_each_value_that_a_rank_owns() -> None:
    recipe = load_recipe("grok1-40b", ["training.reuse_fp32_parameters=true"])
    places = every_stage(layouts_of(recipe))
    dense, expert = recipe.parameters_per_rank()
    saved = between_steps(places).total - between_steps(places, reuses=True).total
    owned = dense // recipe.parallel.data + expert // recipe.parallel.expert_data
    np.testing.assert_allclose(saved, 2 * owned, rtol=1e-3)  # the last norm is in no recipe's own count


def test_the_published_job_between_steps_and_at_the_peak_of_its_first_step() -> None:
    """MindSpeed-LLM's 2-layer test: 19,942.9 MiB after its first step, 21,687.3 at its peak (docs/ledger.md).

    Matching knobs: bf16 gradients that AdamW reads as they are, and reused parameters, whose conversion copies the
    largest weight in fp32: the first products of a rank's experts in one. In a first step moments come after the
    activations, so the peak is the update's.
    """
    recipe = load_recipe("grok1-40b-2layer", ["training.gradient_dtype=bf16", "training.reuse_fp32_parameters=true"])
    model, parallel = recipe.model, recipe.parallel
    stays = float(between_steps(every_stage(layouts_of(recipe)), reuses=True).total[0])
    assert stays / 2**20 / 19_942.94140625 - 1 == pytest.approx(0.0016, abs=1e-4)
    experts = model.num_experts // parallel.expert
    largest = 4 * experts * 2 * model.ffn_hidden_size // parallel.expert_tensor * model.hidden_size
    assert (stays + largest) / 2**20 / 21_687.2841796875 - 1 == pytest.approx(-0.0081, abs=1e-4)

"""What the levers cost and save, counted without data: what real ranks do, and what a hand count says."""

from __future__ import annotations

from typing import Any

import pytest

import tests.bench.ledger.ledger_reality_entries as entries
from bench.ledger.count import count
from bench.ledger.schema import Ledger, RankLedger, differences
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare
from tests.limits import HANG_SECONDS

FOUR_RANKS = (
    *("parallel.world_size=4", "parallel.tensor=2", "parallel.expert=2", "parallel.expert_tensor=1"),
    *("parallel.pipeline=1", "training.global_batch=4", "training.clip_grad=1e-6"),
)
ONE_RANK = ("parallel.world_size=1", "parallel.tensor=1", "parallel.expert=1", "parallel.expert_tensor=1")
SIZES = (*ONE_RANK, "parallel.pipeline=1", "training.dtype=fp32", "training.global_batch=1", "training.micro_batch=1")
CASES = {
    "selective, overlapped gathering": (
        "training.recompute=selective",
        'training.recompute_modules=["core_attn", "layernorm", "moe"]',
        *("kernels.gradient_reduction=overlapped", "kernels.param_gather=overlapped"),
    ),
    "capacity, padded, drawn routes, z-loss": (
        *("training.expert_capacity_factor=1.0", "training.pad_to_capacity=true", "training.routing=random"),
        *("model.z_loss_coefficient=0.001", "kernels.dispatch=megatron"),
    ),
    "block, capacity by position": (
        *("training.recompute=full", "training.recompute_method=block", "training.expert_capacity_factor=0.5"),
        *("training.expert_drop_policy=position", "kernels.dispatch=megatron"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_real_ranks_and_memory_within_two_percent(case: str) -> None:
    recipe: Recipe = load_recipe("grok1-nano", [*FOUR_RANKS, *CASES[case]])
    job: Any = prepare(recipe, 1)
    said = launch(job, recipe, "cpu", entry=f"{entries.__name__}:metered", timeout_seconds=HANG_SECONDS)
    real = [RankLedger.model_validate_json(each) for each in said]
    fake: Ledger = count(recipe, range(4))
    assert fake.is_complete
    found = differences(fake, fake.model_copy(update={"ranks": real}))
    assert [each for each in found if each.what != "memory"] == []
    for ours, theirs in zip(fake.ranks, real, strict=True):
        assert ours.memory.peak_bytes == pytest.approx(theirs.memory.peak_bytes, rel=0.02)


@pytest.mark.slow
def test_drawn_routes_of_two_sequences_at_once_cost_what_learned_ones_do() -> None:
    """megatron views the logits as [T, E], which the draw for each sequence must allow."""
    two = (*SIZES, "training.micro_batch=2", "training.global_batch=2")
    learned, drawn = (count(load_recipe("grok1-nano", [*two, *each])) for each in ((), ("training.routing=random",)))
    assert drawn.total("matrix_flops") == learned.total("matrix_flops") > 0


def kept_bytes(*changes: str) -> int:
    """Activations at the peak, which is where a micro-batch's backward begins."""
    return count(load_recipe("grok1-nano", [*SIZES, *changes])).ranks[0].memory.activations_bytes


@pytest.mark.slow
@pytest.mark.parametrize("cap", [0.0, 30.0])
def test_core_attention_recomputed_saves_what_a_hand_count_says(cap: float) -> None:
    """Elements a token and layer, of one sequence in fp32, with query heads H of size D and key/value heads G.

    torch's fused attention keeps query [H D], key and value copied for each query head [2 H D], and a log-sum [H]; its
    output is the projection's input. Computed again, it keeps query [H D], key [G D], and value, a view into all that
    was projected [(H + 2 G) D]. With a cap, ours keeps those three in any case: there is nothing to save.
    """
    recipe = load_recipe("grok1-nano", SIZES)
    model, tokens = recipe.model, recipe.training.sequence_length
    query, key = model.query_size, model.key_value_size
    kept, kept_again = query + 2 * query + model.num_attention_heads, query + key + (query + 2 * key)
    capped = f"model.attention_logit_cap={cap}"
    saved = kept_bytes(capped) - kept_bytes(capped, "training.recompute=selective")
    assert saved == (0 if cap else 4 * model.num_layers * tokens * (kept - kept_again))

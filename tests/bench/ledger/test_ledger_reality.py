"""What the ledger counts without data is what sixteen real ranks do."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import tests.bench.ledger.ledger_reality_entries as entries
from bench.ledger.count import count
from bench.ledger.schema import Ledger, RankLedger, differences
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare
from tests.conftest import MEGATRONS_PARTS
from tests.limits import HANG_SECONDS

# every gradient is clipped, as the fake step assumes; six micro-batches, of which the fake count runs three and four
CHANGES = ("training.clip_grad=1e-6", "training.global_batch=12")
XAI = ("model.attention_logit_cap=30.0", "model.activation=geglu", "model.tie_embeddings=true")
CASES = {
    "Ascend": CHANGES,
    "Ascend, megatron's own parts": (*CHANGES, *MEGATRONS_PARTS),
    "xAI, ETP1 EP8, recompute": (
        *(*CHANGES, *XAI, "model.router=softmax_then_topk", "training.recompute=full"),
        *("parallel.expert=8", "parallel.expert_tensor=1"),
    ),
}
pytestmark = pytest.mark.slow


@pytest.fixture(params=CASES)
def both(request: pytest.FixtureRequest) -> tuple[Ledger, list[RankLedger]]:
    return counted_twice(request.param)


@functools.cache  # once a case in any order of tests
def counted_twice(case: str) -> tuple[Ledger, list[RankLedger]]:
    """(counted without data, counted on real ranks), all sixteen of them."""
    recipe: Recipe = load_recipe("grok1-nano", CASES[case])
    assert recipe.num_micro_batches == 6
    job: Any = prepare(recipe, 1)
    real = launch(job, recipe, "cpu", entry=f"{entries.__name__}:metered", timeout_seconds=HANG_SECONDS)
    ranks = [RankLedger.model_validate_json(each) for each in real]
    return count(recipe, range(recipe.parallel.world_size)), ranks


def test_every_rank_is_there(both: tuple[Ledger, list[RankLedger]]) -> None:
    fake, real = both
    assert [rank.rank for rank in fake.ranks] == [rank.rank for rank in real] == list(range(16))
    assert fake.is_complete


def test_counts_are_equal(both: tuple[Ledger, list[RankLedger]]) -> None:
    """Parameters, operators, FLOPs, bytes, collectives: every figure of every rank, but for memory."""
    fake, real = both
    found = [each for each in differences(fake, fake.model_copy(update={"ranks": real})) if each.what != "memory"]
    assert found == []


def test_memory_is_within_two_percent(both: tuple[Ledger, list[RankLedger]]) -> None:
    for ours, theirs in zip(*(both[0].ranks, both[1]), strict=True):
        assert ours.memory.peak_bytes == pytest.approx(theirs.memory.peak_bytes, rel=0.02), ours.rank
        assert ours.memory.static_bytes == pytest.approx(theirs.memory.static_bytes, rel=0.02), ours.rank

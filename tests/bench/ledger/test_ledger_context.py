"""Context parallelism in the ledger: what is counted without data is what ranks do, and what the sizes say.

Letters: S tokens of a rank (a sequence over CP), Q all query heads together, K all key heads (and all value heads),
L layers of a stage, M micro-batches of a step.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

import tests.bench.ledger.ledger_reality_entries as entries
from bench.ledger.count import count
from bench.ledger.schema import Ledger, RankLedger, differences
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.memory import communicators
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare
from tests.limits import HANG_SECONDS

FP32 = 4
RANKS = 4
# every gradient is clipped, as the fake step assumes; four micro-batches, of which the fake count runs two and three
SMALL = (*ONE_RANK, f"parallel.world_size={RANKS}", "training.clip_grad=1e-6", "training.global_batch=4")
CASES = {
    "gathered keys and values, TP2 EP2": (
        *("parallel.tensor=2", "parallel.context=2", "parallel.expert=2", "model.attention_logit_cap=30.0"),
    ),
    "sequence for heads, PP2": ("parallel.context=2", "parallel.pipeline=2", "parallel.context_exchange=a2a"),
}
pytestmark = pytest.mark.slow  # tests.bench.test_measure has a job of ranks beside its ledger that is not


@pytest.fixture(params=CASES)
def counted(request: pytest.FixtureRequest) -> tuple[Recipe, Ledger, list[RankLedger]]:
    return counted_twice(request.param)


@functools.cache  # once a case in any order of tests
def counted_twice(case: str) -> tuple[Recipe, Ledger, list[RankLedger]]:
    """The recipe, its ledger counted without data, and the ranks' that were counted as they ran."""
    recipe: Recipe = load_recipe("grok1-nano", (*SMALL, *CASES[case]))
    job: Any = prepare(recipe, 1)
    real = launch(job, recipe, "cpu", entry=f"{entries.__name__}:metered", timeout_seconds=HANG_SECONDS)
    return recipe, count(recipe, range(RANKS)), [RankLedger.model_validate_json(each) for each in real]


def test_every_count_is_that_of_ranks_that_ran(counted: tuple[Recipe, Ledger, list[RankLedger]]) -> None:
    _, fake, real = counted
    assert fake.is_complete
    found = [each for each in differences(fake, fake.model_copy(update={"ranks": real})) if each.what != "memory"]
    assert found == []


def test_ranks_of_a_context_do_the_same_work(counted: tuple[Recipe, Ledger, list[RankLedger]]) -> None:
    recipe, fake, _ = counted
    first, second = fake.ranks[0], fake.ranks[recipe.parallel.tensor]  # the next rank but for the tensor's
    assert first.stage == second.stage
    of_pass = [[row for row in rank.costs if row.phase in ("forward", "backward")] for rank in (first, second)]
    assert of_pass[0] == of_pass[1] != []
    assert first.collectives == second.collectives


def test_the_exchange_is_what_the_sizes_say(counted: tuple[Recipe, Ledger, list[RankLedger]]) -> None:
    recipe, fake, _ = counted
    model, parallel = recipe.model, recipe.parallel
    tokens = recipe.training.sequence_length * recipe.training.micro_batch // parallel.context
    calls = model.num_layers // parallel.pipeline * recipe.num_micro_batches
    keys = 2 * tokens * model.key_value_size // parallel.tensor  # and values
    queries = tokens * model.query_size // parallel.tensor
    gathered = FP32 * calls * keys * parallel.context
    expected = {
        "all_gather": {
            ("forward", "all_gather_into_tensor"): (calls, gathered),
            ("backward", "reduce_scatter_tensor"): (calls, gathered),
        },
        "a2a": {
            # there: queries, keys and values; back: what was attended to, as long as the queries
            ("forward", "all_to_all_single"): (2 * calls, FP32 * calls * (2 * queries + keys)),
            ("backward", "all_to_all_single"): (2 * calls, FP32 * calls * (2 * queries + keys)),
        },
    }
    for rank in fake.ranks:
        found = {
            (row.phase, row.operation): (row.calls, row.bytes) for row in rank.collectives if row.group == "context"
        }
        assert found == expected[parallel.context_exchange]


def test_groups_are_named_by_what_is_split_over_them(counted: tuple[Recipe, Ledger, list[RankLedger]]) -> None:
    recipe, fake, _ = counted
    for rank in fake.ranks:
        names = {row.group for row in rank.collectives}
        assert {"context", "data x context", "tensor x context"} <= names
        assert not names & {"data", "other"}
    assert communicators(recipe) == max(len({row.group for row in rank.collectives}) for rank in fake.ranks)

"""The planner's collectives are the ledger's, row by row, call by call and to the last byte: megatron-core 0.12's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ledger.count import count
from bench.ledger.schema import read_ledger
from bench.ledger.store import FOLDER, SHIPPED
from bench.plan.exchanges import exchanges
from bench.plan.layouts import Layouts, Places, different_stages, every_stage, layouts_of
from bench.plan.routed import routed
from grok1.config.load import ONE_RANK, load_recipe
from tests.bench.plan.forms import Rows, differences, ledgers_rows, rows_of
from tests.bench.plan.sample import sampled_recipes, together
from tests.lines import ONLY_0_12


@pytest.mark.parametrize("name", SHIPPED)
def test_every_collective_of_a_stored_ledger_is_planned(name: str) -> None:
    """The shipped recipes, full-size jobs among them, at every stage."""
    places = every_stage(layouts_of(load_recipe(name)))
    planned = rows_of(places, exchanges(places))
    for rank in read_ledger(FOLDER / f"{name}.json").ranks:
        assert differences(planned[rank.stage], ledgers_rows(rank)) == []


@pytest.mark.slow
@ONLY_0_12
def test_what_a_sample_may_lack_is_the_ledgers() -> None:
    """bf16 experts summed in the router's fp32 after a gather; tied ends' fp32 gradients; the first layer of chunks."""
    layout = ("world_size=8", "tensor=2", "pipeline=2", "virtual_pipeline=2", "expert=2", "expert_tensor=2")
    changes = (
        *(f"parallel.{each}" for each in (*layout, "dispatcher=allgather")),
        *("model.num_layers=8", "model.tie_embeddings=true", "training.dtype=bf16", "kernels.dispatch=megatron"),
        *("training.recompute=full", "training.recompute_method=block"),
    )
    recipe = load_recipe("grok1-nano", [*ONE_RANK, *changes, "training.global_batch=4"])
    places = every_stage(layouts_of(recipe))
    for ours, rank in zip(rows_of(places, exchanges(places)), count(recipe).ranks, strict=True):
        assert differences(ours, ledgers_rows(rank)) == []


WIDE = ("model.hidden_size=1024", "model.ffn_hidden_size=4096", "model.vocab_size=65536")
OVERLAPPED = ("kernels.gradient_reduction=overlapped", "kernels.param_gather=overlapped")
BUCKETS = {
    "one stage, experts with the dense weights": ("parallel.world_size=2", "training.global_batch=2"),
    "tied ends, chunks, experts apart": (
        *("parallel.world_size=8", "parallel.pipeline=2", "parallel.virtual_pipeline=2", "parallel.expert=2"),
        *("model.num_layers=4", "model.tie_embeddings=true", "training.global_batch=8"),
    ),
}


@pytest.mark.slow
@ONLY_0_12
@pytest.mark.parametrize("case", BUCKETS)
def test_weights_of_several_buckets_are_reduced_and_gathered_bucket_by_bucket(case: str) -> None:
    """Models of more than the 40 million values that make a bucket full; the first stage's first chunk has several."""
    changes = (*ONE_RANK, *WIDE, *BUCKETS[case])
    recipe = load_recipe("grok1-nano", [*changes, *OVERLAPPED])
    places = every_stage(layouts_of(recipe))
    rows = rows_of(places, exchanges(places))
    for ours, rank in zip(rows, count(recipe).ranks, strict=True):
        assert differences(ours, ledgers_rows(rank)) == []
    at_end = every_stage(layouts_of(load_recipe("grok1-nano", changes)))
    assert reductions(rows[0]) > reductions(rows_of(at_end, exchanges(at_end))[0])


def reductions(rows: Rows) -> int:
    """Buckets whose gradients are reduced over replicas."""
    return sum(
        calls for (_, group, operation, _), (calls, _) in rows.items() if "data" in group and "reduce" in operation
    )


SIXTEENTHS = (4, 4, 2, 2, 1, 1, 1, 1)
DISPATCHES = {
    "merged": ("kernels.dispatch=merged",),
    "megatron's": ("kernels.dispatch=megatron",),
    "cut to a capacity": ("kernels.dispatch=megatron", "training.expert_capacity_factor=1.25"),
}


@pytest.mark.matrix(keep=1)
@ONLY_0_12
@pytest.mark.parametrize("case", DISPATCHES)
def test_a_loaded_expert_costs_its_rank_what_the_ledger_counts(case: str) -> None:
    """Of both ranks of an expert group, the first of which has three quarters of the pairs."""
    recipe = load_recipe("grok1-nano", DISPATCHES[case])
    shares, places = [each / 16 for each in SIXTEENTHS], different_stages(layouts_of(recipe))
    ledger = count(recipe, ranks=[0, 4], shares=shares)
    planned = [rows_of(places, exchanges(places, shares, expert_rank))[0] for expert_rank in (0, 1)]
    assert [differences(ours, ledgers_rows(rank)) for ours, rank in zip(planned, ledger.ranks, strict=True)] == [[], []]
    assert planned[0] != planned[1]


# ---- without a ledger ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places() -> dict[str, Places]:
    """A place of every stage of the sampled layouts, by the name of their recipe."""
    return {name: every_stage(together(recipes)) for name, recipes in sampled_recipes(66).items()}


def test_one_rank_exchanges_nothing() -> None:
    for changes in ((), OVERLAPPED, ("model.tie_embeddings=true",)):
        assert exchanges(every_stage(layouts_of(load_recipe("grok1-nano", [*ONE_RANK, *changes])))) == ()


def test_only_groups_of_several_ranks_exchange_and_each_call_moves_something(places: dict[str, Places]) -> None:
    for several in places.values():
        for each in exchanges(several):
            assert ((each.calls > 0) == (each.bytes > 0)).all(), each
            assert ((each.ranks > 1) | (each.calls == 0)).all(), each
            assert (each.ranks <= several.of.world_size).all(), each
            assert (each.calls >= 0).all()


def test_no_layout_changes_another(places: dict[str, Places]) -> None:
    """Columns are of their row alone: each layout planned by itself is what it is among the others."""
    for several in places.values():
        together_rows = rows_of(several, exchanges(several))
        for row in np.flatnonzero(several.stage == 0).tolist():
            alone = every_stage(several.of.take([row]))
            assert rows_of(alone, exchanges(alone))[0] == together_rows[row]


def test_a_kind_of_call_is_told_once(places: dict[str, Places]) -> None:
    for several in places.values():
        kinds = [(each.phase, each.group, each.operation, each.dtype, each.per) for each in exchanges(several)]
        assert len(kinds) == len(set(kinds))


def test_a_larger_global_batch_has_more_micro_batches_of_the_same_exchanges(places: dict[str, Places]) -> None:
    for several in places.values():
        training = several.of.recipe.training
        twice = training.model_copy(update={"global_batch": 2 * training.global_batch})
        of = replace(several.of, recipe=several.of.recipe.model_copy(update={"training": twice}))
        for ours, theirs in zip(exchanges(several), exchanges(replace(several, of=of)), strict=True):
            assert (ours.calls == theirs.calls).all()
            assert (ours.bytes == theirs.bytes).all()


def test_what_the_first_rank_sends_between_stages_the_next_receives(places: dict[str, Places]) -> None:
    """A group, an operation and bytes on both sides: else a real job would wait for ever."""
    for several in places.values():
        rows = rows_of(several, exchanges(several))
        sides: dict[int, Counter[tuple[str, str]]] = {}
        for row, layout in zip(rows, several.layout.tolist(), strict=True):
            for (phase, group, operation, _), (calls, size) in row.items():
                if phase == "pipeline":
                    sums = sides.setdefault(layout, Counter())
                    sums[group, "calls"] += calls if operation == "send" else -calls
                    sums[group, "bytes"] += size if operation == "send" else -size
        assert all(not any(sums.values()) for sums in sides.values())
        assert len(sides) == len(np.unique(several.layout[several.of.pipeline > 1]))


WAYS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def by_experts() -> Layouts:
    """A layout for each number of expert ranks."""
    changes = "parallel.world_size=8", "training.global_batch=8", "parallel.expert={}"
    return together([load_recipe("grok1-nano", [*ONE_RANK, *(each.format(ways) for each in changes)]) for ways in WAYS])


@given(
    weights=st.lists(st.integers(1, 4), min_size=8, max_size=8),
    capacity=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    is_padded=st.booleans(),
)
def test_what_expert_ranks_receive_is_what_is_sent(
    by_experts: Layouts, weights: list[int], capacity: float, is_padded: bool
) -> None:
    """Over all ranks of an expert group, whatever the shares; and no expert takes more than its capacity."""
    training = {"expert_capacity_factor": capacity, "pad_to_capacity": is_padded and capacity > 0}
    recipe = by_experts.recipe
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
    of, shares = replace(by_experts, recipe=recipe), [each / sum(weights) for each in weights]
    pairs = of.tokens * recipe.model.experts_per_token
    sent, received = routed(of, shares).sent, np.zeros_like(pairs)
    for expert_rank in range(max(WAYS)):
        is_there = expert_rank < of.expert
        received += np.where(is_there, routed(of, shares, np.where(is_there, expert_rank, 0)).received, 0)
    assert (received == sent).all()
    if not capacity:
        assert (sent == pairs).all()
        return
    most = np.ceil(pairs / 8 * capacity).astype(np.int64) * 8
    assert (sent == most).all() if is_padded else (sent <= np.minimum(pairs, most)).all()

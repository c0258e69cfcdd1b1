"""A published Grok-1 job does the work that the ledger counted of the same job in our own program."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.ledger.schema import RankLedger, read_ledger
from bench.places import shipped
from bench.plan.published import PublishedRow, read_published
from bench.plan.published_work import model_flops, published_work
from bench.plan.work import Work
from grok1.config.load import load_recipe

MATRICES = ("attention projections", "experts", "router", "head")
PHASES = ("forward", "backward")


@pytest.fixture(scope="module")
def row() -> PublishedRow:
    """The job of grok1-40b, from the sizes of the two-layer test among the shipped rows."""
    test = next(row for row in read_published().rows if row.model.startswith("grok1") and row.is_time)
    recipe = load_recipe("grok1-40b")
    parallel, training = recipe.parallel, recipe.training
    return replace(
        test, world_size=parallel.world_size, tensor=parallel.tensor, pipeline=parallel.pipeline,
        expert=parallel.expert, expert_tensor=parallel.expert_tensor, sequence_length=training.sequence_length,
        global_batch=training.global_batch, layers=recipe.model.num_layers,
        flags={**test.flags, "moe-token-dispatcher-type": "allgather"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranks() -> list[RankLedger]:
    """Of the first stage and the last."""
    return read_ledger(shipped("baselines") / "ledger" / "grok1-40b.json").ranks


def test_model_flops_are_the_recipe_s_but_for_the_router(row: PublishedRow) -> None:
    recipe = load_recipe("grok1-40b")
    assert model_flops(row) == pytest.approx(recipe.flops_per_token() * 8192 * 128, rel=1e-9)


def test_products_and_attention_are_the_ledger_s(row: PublishedRow, ranks: list[RankLedger]) -> None:
    work = published_work([row])
    for place, rank in enumerate(ranks):
        counted = {(each.component, each.phase): each.matrix_flops for each in rank.costs}
        for phase in PHASES:
            flops = Counter[str]()
            for product in work.products:
                if product.phase == phase:
                    calls = int(product.calls[place] * work.micro_batches[place])
                    flops[product.component] += int(
                        2 * product.rows[place] * product.columns[place] * product.depth[place] * calls
                    )
            assert {name: flops[name] for name in MATRICES} == {
                name: counted.get((name, phase), 0) for name in MATRICES
            }
            (core,) = (each for each in work.attention if each.phase == phase)
            assert core.flops[place] * work.micro_batches[place] == counted["attention core", phase]


def test_exchanges_are_the_ledger_s_but_for_routing_and_losses(row: PublishedRow, ranks: list[RankLedger]) -> None:
    """Probabilities and masks of the routing, and sums of a few numbers, are not in a published job's work."""
    work = published_work([row])
    for place, rank in enumerate(ranks):
        counted = Counter[tuple[str, str, str]]()
        for each in rank.collectives:
            if each.dtype in ("bfloat16", "float32"):
                counted[each.phase, each.group, each.operation] += each.bytes
        for key, ours in _bytes(work, place).items():
            if ours > 1 << 28:
                assert ours == pytest.approx(counted[key], rel=0.005), key
        missing = {key: size for key, size in counted.items() if size > 1 << 28 and key not in _bytes(work, place)}
        assert not missing


def _bytes(work: Work, place: int) -> Counter[tuple[str, str, str]]:
    found = Counter[tuple[str, str, str]]()
    for each in work.exchanges:
        times = int(work.micro_batches[place]) if each.per == "micro_batch" else 1
        if each.bytes[place]:
            found[each.phase, each.group, each.operation] += int(each.bytes[place]) * times
    return found

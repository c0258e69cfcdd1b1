"""Parameters, products and attention cores in closed form against the ledger, with zero tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ledger.count import count
from bench.ledger.schema import read_ledger
from bench.ledger.store import FOLDER, SHIPPED
from bench.plan.layouts import every_stage, layouts_of
from bench.plan.legal import legal_layouts
from bench.plan.products import _twice_met, products
from grok1.config.load import ONE_RANK, load_recipe
from tests.bench.plan.forms import counted_flops, counted_parameters, planned_flops, planned_parameters
from tests.conftest import MEGATRONS_PARTS


@pytest.mark.parametrize("name", SHIPPED)
def test_a_stored_ledger_is_planned(name: str) -> None:
    """The shipped recipes, full-size jobs among them, at every stage."""
    places = every_stage(layouts_of(load_recipe(name)))
    flops, held = planned_flops(places), planned_parameters(places)
    for rank in read_ledger(FOLDER / f"{name}.json").ranks:
        assert flops[rank.stage] == counted_flops(rank)
        assert held[rank.stage] == counted_parameters(rank)


def test_a_stated_skew_is_the_ledgers() -> None:
    """The first rank's experts get more than their share: 12 of 16 pairs."""
    recipe = load_recipe("grok1-nano", [*MEGATRONS_PARTS, "parallel.pipeline=1", "parallel.world_size=8"])
    shares = tuple(each / 16 for each in (4, 4, 2, 2, 1, 1, 1, 1))
    (rank,) = count(recipe, ranks=[0], shares=shares).ranks
    (skewed,) = planned_flops(every_stage(layouts_of(recipe)), shares)
    (even,) = planned_flops(every_stage(layouts_of(recipe)))
    assert skewed == counted_flops(rank)
    assert skewed["forward", "experts"] * 16 == even["forward", "experts"] * 2 * 12


def test_a_context_is_planned() -> None:
    """The first rank of a context, which gathers keys, has the first and the last chunk of a sequence."""
    recipe = load_recipe("grok1-nano", [*ONE_RANK, "parallel.world_size=4", "parallel.context=4"])
    (rank,) = count(recipe, ranks=[0]).ranks
    assert planned_flops(every_stage(layouts_of(recipe))) == [counted_flops(rank)]


def test_a_row_of_many_layouts_is_that_of_the_layout_alone() -> None:
    recipe = load_recipe("grok1-levers-16")
    layouts = legal_layouts(recipe, axes=("tensor", "expert", "context", "recompute"))
    together = planned_flops(every_stage(layouts))
    alone = [each for row in range(len(layouts)) for each in planned_flops(every_stage(layouts.take([row])))]
    assert len(layouts) > 50
    assert together == alone


def test_the_whole_job_multiplies_what_the_recipe_says() -> None:
    """Without recompute and attention's cores, whose backward the recipe counts otherwise: 6 N T."""
    recipe = load_recipe("grok1-314b")
    ranks_alike = recipe.parallel.world_size // recipe.parallel.pipeline
    done = sum(
        flops
        for place in planned_flops(every_stage(layouts_of(recipe)))
        for (phase, component), flops in place.items()
        if phase != "recompute" and component != "attention core"
    )
    assert ranks_alike * done == 6 * recipe.active_parameters() * recipe.tokens_per_step


def test_products_of_the_40b_jobs_second_stage() -> None:
    """Rows, depth, columns and calls of a micro-batch of 8192 tokens; backward swaps the sizes."""
    places = every_stage(layouts_of(load_recipe("grok1-40b")))
    found = {
        (each.component, each.phase, int(each.rows[1]), int(each.depth[1]), int(each.columns[1]), int(each.calls[1]))
        for each in products(places)
        if each.calls[1]
    }
    assert ("attention projections", "forward", 8192, 6144, 2048, 4) in found
    assert ("attention projections", "backward", 8192, 2048, 6144, 4) in found
    assert ("attention projections", "backward", 2048, 8192, 6144, 4) in found
    assert ("experts", "forward", 4096, 6144, 16384, 16) in found
    assert ("experts", "forward", 4096, 8192, 6144, 16) in found
    assert ("router", "forward", 2048, 6144, 8, 4) in found
    assert ("head", "forward", 8192, 6144, 32768, 1) in found
    assert not {each for each in found if each[1] == "recompute"}


def test_rows_that_do_not_spread_evenly_are_products_of_two_sizes() -> None:
    """Ten pairs for four experts of one rank: two experts with three rows, two with two."""
    recipe = load_recipe(
        "grok1-nano",
        [*MEGATRONS_PARTS, "parallel.world_size=1", "parallel.tensor=1", "parallel.pipeline=1", "parallel.expert=1"]
        + ["parallel.expert_tensor=1", "model.num_experts=4", "training.sequence_length=5"],
    )
    found = [
        each
        for each in products(every_stage(layouts_of(recipe)))
        if (each.component, each.phase) == ("experts", "forward")
    ]
    rows = {int(each.rows[0]): int(each.calls[0]) // recipe.model.num_layers for each in found if each.calls[0]}
    assert rows == {3: 2, 2: 2}
    assert np.sum([each.rows[0] * each.calls[0] for each in found]) == 2 * 10 * recipe.model.num_layers


@given(queries=st.integers(1, 500), earlier=st.integers(0, 500))
def test_blocks_of_capped_attention_meet_the_keys_up_to_their_ends(queries: int, earlier: int) -> None:
    met = sum(min(64, queries - start) * (earlier + min(start + 64, queries)) for start in range(0, queries, 64))
    assert _twice_met(np.array([queries]), np.array([earlier]), is_capped=True).tolist() == [2 * met]

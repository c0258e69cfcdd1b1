"""What moves bytes, beside the ledger's count: an approximation, whose errors are bounded here."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ledger.schema import CostRow, RankLedger, read_ledger
from bench.places import shipped
from bench.plan.layouts import every_stage, layouts_of
from bench.plan.recomputed import layers_again
from bench.plan.traffic import traffic
from grok1.config.load import load_recipe

# of which no operator is a product, so that the ledger's bytes are what is approximated
ALONE = ("norms", "dispatch", "residual")
RECIPES = ("grok1-40b", "grok1-40b-tuned", "grok1-60b", "grok1-tiny", "grok1-small", "grok1-nano")


def counted(rank: RankLedger, phase: str, component: str) -> CostRow:
    (row,) = [each for each in rank.costs if (each.phase, each.component) == (phase, component)]
    return row


@pytest.mark.parametrize("name", RECIPES)
def test_bytes_and_launches_are_near_the_ledgers(name: str) -> None:
    recipe = load_recipe(name)
    ledger = read_ledger(shipped("baselines") / "ledger" / f"{name}.json")
    found = {(each.component, each.phase): each for each in traffic(every_stage(layouts_of(recipe)))}
    for rank in ledger.ranks:
        for phase in ("forward", "backward"):
            ours = theirs = calls = their_calls = 0
            for component in ALONE if phase == "forward" else ALONE[:2]:
                row, each = counted(rank, phase, component), found[component, phase]
                ours += recipe.num_micro_batches * int(each.bytes[rank.stage])
                theirs += row.bytes_read + row.bytes_written
                calls += recipe.num_micro_batches * int(each.calls[rank.stage])
                their_calls += row.operator_calls
            assert ours == pytest.approx(theirs, rel=0.2)
            assert calls == pytest.approx(their_calls, rel=0.2)


@pytest.mark.parametrize("name", RECIPES)
def test_the_step_s_own_bytes_are_near_the_ledgers(name: str) -> None:
    recipe = load_recipe(name)
    ledger = read_ledger(shipped("baselines") / "ledger" / f"{name}.json")
    (found,) = [each for each in traffic(every_stage(layouts_of(recipe))) if each.per == "step"]
    for rank in ledger.ranks:
        rows = [row for row in rank.costs if row.phase in ("gradients", "optimizer")]
        expected = sum(row.bytes_read + row.bytes_written for row in rows)
        assert int(found.bytes[rank.stage]) == pytest.approx(expected, rel=0.2)


def test_the_ends_are_of_the_first_and_the_last_stage() -> None:
    recipe = load_recipe("grok1-tiny", ["parallel.pipeline=4", "parallel.expert=1"])
    found = {(each.component, each.phase): each for each in traffic(every_stage(layouts_of(recipe)))}
    assert (found["embedding", "forward"].bytes > 0).tolist() == [True, False, False, False]
    assert (found["loss", "forward"].bytes > 0).tolist() == [False, False, False, True]
    norms = found["norms", "forward"].bytes
    assert norms[0] == norms[1] < norms[3]  # the head's own


def test_fused_norms_move_less() -> None:
    def norms(*settings: str) -> int:
        found = traffic(every_stage(layouts_of(load_recipe("grok1-40b", list(settings)))))
        return int(sum(each.bytes[0] for each in found if each.component == "norms"))

    assert norms("kernels.norm=npu") < norms() / 10


def test_what_is_computed_again_is_as_its_forward() -> None:
    settings = ["training.recompute=selective", 'training.recompute_modules=["layernorm","moe"]']
    found = traffic(every_stage(layouts_of(load_recipe("grok1-40b", settings))))
    again = {each.component: each for each in found if each.phase == "recompute"}
    forward = {each.component: each for each in found if each.phase == "forward"}
    assert set(again) == {"norms", "dispatch", "experts", "router"}
    np.testing.assert_array_equal(again["experts"].bytes, forward["experts"].bytes)
    assert not [
        each for each in traffic(every_stage(layouts_of(load_recipe("grok1-40b")))) if each.phase == "recompute"
    ]


def test_layers_that_run_again() -> None:
    block = ["training.recompute=full", "training.recompute_method=block", "training.recompute_layers=1"]
    places = every_stage(layouts_of(load_recipe("grok1-40b", block)))
    assert layers_again(places, "norms").tolist() == [1, 1]
    places = every_stage(layouts_of(load_recipe("grok1-40b", [*block, "parallel.virtual_pipeline=2"])))
    assert layers_again(places, "norms").tolist() == [2, 2]  # of each chunk one
    full = every_stage(layouts_of(load_recipe("grok1-40b", ["training.recompute=full"])))
    assert layers_again(full, "residual").tolist() == [4, 4]
    none = every_stage(layouts_of(load_recipe("grok1-40b")))
    assert layers_again(none, "norms").tolist() == [0, 0]

"""What a layer keeps of a micro-batch is what a further layer adds to the ledger's peak."""

from __future__ import annotations

import pytest

from bench.ledger.schema import RankLedger
from bench.ledger.store import counted as count
from bench.plan.kept import kept, kept_of_chunk, sizes_of
from bench.plan.layouts import every_stage, layouts_of
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.config.stages import chunks_in_flight
from tests.conftest import MEGATRONS_PARTS
from tests.lines import ONLY_0_12

# sizes of which no two have one product; long sequences, so that the peak is at the same moment with more layers
COMMON = ("parallel.tensor=2", "parallel.expert=2", "parallel.expert_tensor=2", "training.sequence_length=112")
BF16 = "training.dtype=bf16"
CASES = {
    "fp32, megatron's parts": MEGATRONS_PARTS,
    "bf16, our parts": (BF16,),
    "bf16, all dispatched by gathering": (*MEGATRONS_PARTS, BF16, "parallel.dispatcher=allgather"),
    "bf16, capped attention, whole sequences exchanged for heads": (
        *(*MEGATRONS_PARTS, BF16, "model.attention_logit_cap=30.0", "training.router_dtype=model"),
        *("parallel.context=2", "parallel.context_exchange=a2a"),
    ),
    "fp32, cut to a capacity": (*MEGATRONS_PARTS, "training.expert_capacity_factor=0.5"),
    "fp32, norms and attention again": (
        *MEGATRONS_PARTS,
        *("training.recompute=selective", 'training.recompute_modules=["core_attn","layernorm"]'),
    ),
}


def counted_beside(recipe: Recipe) -> RankLedger:
    """The first rank's ledger."""
    return count(recipe, [0]).ranks[0]


def beside_what_stays(rank: RankLedger) -> int:
    """Bytes at the peak that are not there between steps."""
    return rank.memory.peak_bytes - rank.memory.static_bytes


@pytest.mark.slow
@ONLY_0_12
@pytest.mark.parametrize("case", CASES)
def test_a_further_layer_adds_what_it_keeps(case: str) -> None:
    few, many = (load_recipe("grok1-nano", [*COMMON, *CASES[case], f"model.num_layers={each}"]) for each in (4, 8))
    places = every_stage(layouts_of(many))
    sizes = sizes_of(places)
    of_chunk, *_ = kept_of_chunk(places, sizes, kept(places, sizes))
    flying = chunks_in_flight(many.parallel, 0, many.num_micro_batches)
    ours = flying * int(of_chunk[0]) // 2  # the four layers of the stage less the two of the smaller model's
    short, long = counted_beside(few), counted_beside(many)
    assert long.memory.peak_component == short.memory.peak_component
    added = beside_what_stays(long) - beside_what_stays(short)
    # micro-batches in flight share some counts of a layer's rows
    assert 0 <= ours - added <= 300 * 2 * (flying if flying > 1 else 0)

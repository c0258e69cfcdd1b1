"""What a published job's work is taken to be is what megatron-core's own decoders do: products, exchanges, weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from grok1.distributed.launch import rank_context
from tests.bench.plan.decoders import Counted, Decoder, counted_by_megatron, left_out, planned
from tests.lines import ONLY_0_12

pytestmark = ONLY_0_12

_DENSE: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 8, "num_query_groups": 4,
    "kv_channels": 16,
}  # fmt: skip
_EXPERTS = _DENSE | {
    "num_moe_experts": 8,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 48,
    "moe_token_dispatcher_type": "alltoall",
}
_GATHERED = {"moe_token_dispatcher_type": "allgather"}
_SHARED = {"moe_shared_expert_intermediate_size": 80}
_DENSE_FIRST = {"moe_layer_freq": [0, 1]}
_UNEVEN = {"num_layers": 4, "moe_layer_freq": [0, 1, 1, 1]}
_LATENT = {
    "num_query_groups": 8, "multi_latent_attention": True, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8, "v_head_dim": 12, "rope_type": "rope",
}  # fmt: skip
_PLAIN_QUERIES = _LATENT | {"q_lora_rank": None}
_PADDED = {"moe_pad_expert_input_to_capacity": True, "moe_expert_capacity_factor": 1.5}
_AGAIN = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES = {
    "experts split": Decoder(_EXPERTS, tensor=2, expert=2, expert_tensor=2),
    "latent and experts": Decoder(_EXPERTS | _LATENT | _SHARED | _DENSE_FIRST, tensor=2, expert=2),
    "padded": Decoder(_EXPERTS | _PADDED, tensor=2, expert=2, expert_tensor=2),
    "recomputed": Decoder(_EXPERTS | _SHARED | _LATENT | _AGAIN, tensor=2, expert=2, expert_tensor=2),
    "predicting": Decoder(_EXPERTS | _LATENT, tensor=2, expert=2, pipeline=2, stage=1, predicting=1),
}
SLOW = (
    Decoder(_EXPERTS | _SHARED | _UNEVEN, tensor=2, expert=2, pipeline=2, stage=1),
    Decoder(_EXPERTS | _GATHERED | {"num_layers": 4, "moe_layer_freq": 2}, tensor=2, expert=2),
    Decoder(_DENSE),
    Decoder(_DENSE, tensor=4),
    Decoder(_DENSE | _LATENT, tensor=2),
    Decoder(_DENSE | _PLAIN_QUERIES, tensor=4),
    Decoder(_EXPERTS, tensor=2, expert=8),
    Decoder(_EXPERTS | _GATHERED | _AGAIN, tensor=2, expert=2),
    Decoder(_EXPERTS | _SHARED | _UNEVEN | _AGAIN, tensor=2, expert=2),
    Decoder(_EXPERTS | _SHARED | _UNEVEN, tensor=2, expert=2, pipeline=2),
    Decoder(_DENSE, tensor=2, predicting=2),
    Decoder(_DENSE, tensor=2, pipeline=2, predicting=1),
    Decoder(_EXPERTS | _SHARED | _DENSE_FIRST, tensor=2, expert=2, predicting=1),
)


@pytest.fixture(scope="module")
def ran() -> dict[str, Counted]:
    return dict(zip(CASES, _ran([*CASES.values()]), strict=True))


def _ran(decoders: list[Decoder]) -> list[Counted]:
    with ProcessPoolExecutor(1, mp_context=rank_context("cpu", "grok1.training.fake_step")) as pool:
        return pool.submit(counted_by_megatron, decoders).result()


@pytest.mark.parametrize("name", CASES)
def test_a_rank_does_what_megatron_does(ran: dict[str, Counted], name: str) -> None:
    _same(CASES[name], ran[name])


@pytest.mark.slow
def test_so_it_is_in_all_layouts() -> None:
    decoders = [*SLOW, *_all_layouts()]
    for decoder, found in zip(decoders, _ran(decoders), strict=True):
        _same(decoder, found)


def _all_layouts() -> Iterator[Decoder]:
    """Without TP above 1 beside EP1 and ETP1: there megatron's experts sum what they give over tensor ranks."""
    attentions: tuple[dict[str, Any], ...] = {}, _LATENT, _PLAIN_QUERIES
    dispatchers: tuple[dict[str, Any], ...] = {}, _GATHERED
    for tensor, expert in itertools.product((1, 2, 4), (1, 2, 4)):
        for split in sorted({1, tensor}):
            if tensor > 1 and expert == split == 1:
                continue
            for parts in itertools.product(attentions, dispatchers, ({}, _SHARED | _DENSE_FIRST)):
                words = _EXPERTS | parts[0] | parts[1] | parts[2]
                yield Decoder(words, tensor=tensor, expert=expert, expert_tensor=split)


def _same(decoder: Decoder, found: Counted) -> None:
    """Counters are equal where what one lacks is 0 of the other."""
    expected = planned(decoder)
    ranks = {
        "tensor": decoder.tensor,
        "expert": decoder.expert,
        "expert-tensor": decoder.expert_tensor,
        "expert-tensor x expert": decoder.expert * decoder.expert_tensor,
    }
    for key, calls, of_call in left_out(decoder):
        happening = calls * (ranks[key[1]] > 1)
        expected.calls[key] += happening
        expected.bytes[key] += happening * of_call
    assert found.products == expected.products
    assert found.attention == expected.attention
    assert found.calls == expected.calls
    assert found.bytes == expected.bytes
    assert found.parameters == expected.parameters

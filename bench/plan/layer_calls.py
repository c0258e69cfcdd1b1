"""The collectives of one layer's forward pass of a micro-batch, by the part of it that calls them. No torch.

Letters: T tokens of a micro-batch on a rank before tensor ranks split them, H hidden, Q all query heads together, K all
key heads (and all value heads), E experts, k experts a token; TP, CP, EP, ETP ranks of a group.
"""

from __future__ import annotations

import numpy as np

from bench.plan.calls import (
    ALL_GATHER,
    ALL_GATHER_PARTS,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    REDUCE_SCATTER_PARTS,
    Call,
    Sizes,
    Where,
)

_ALL_EXPERTS = "expert-tensor x expert"  # every rank with a part of an expert


def projection_input(sizes: Sizes) -> Call:
    """[T, H] gathered from sequence shards before the query, key and value matrix."""
    return sizes.call("tensor", ALL_GATHER, sizes.dtype, sizes.hidden_values)


def projection_output(sizes: Sizes) -> Call:
    """[T, H] of partial sums, after attention's output matrix."""
    return sizes.call("tensor", REDUCE_SCATTER, sizes.dtype, sizes.hidden_values)


def attention_core(sizes: Sizes) -> list[Call]:
    """Of a split sequence: keys and values gathered, T 2 K / TP of each context rank; or sequence exchanged for heads.

    The exchange takes queries, keys and values there, T (Q + 2 K) / TP, and brings T Q / TP back.
    """
    of, model = sizes.of, sizes.recipe.model
    queries = of.tokens * (model.query_size // of.tensor)
    keys_and_values = of.tokens * (2 * model.key_value_size // of.tensor)
    gathers = of.column_of("all_gather", "context_exchange")
    return [
        sizes.call("context", ALL_GATHER, sizes.dtype, of.context * keys_and_values, where=gathers),
        sizes.call("context", ALL_TO_ALL, sizes.dtype, queries + keys_and_values, where=~gathers),
        sizes.call("context", ALL_TO_ALL, sizes.dtype, queries, where=~gathers),
    ]


def expert_load(sizes: Sizes) -> list[Call]:
    """Each expert's tokens [E], summed over the ranks that share a sequence, for the auxiliary loss."""
    model = sizes.recipe.model
    return (
        [sizes.call("tensor x context", ALL_REDUCE, "int64", model.num_experts)] if model.aux_loss_coefficient else []
    )


def token_counts(sizes: Sizes) -> list[Call]:
    """Each rank's tokens for each expert [EP x ETP, E]; not where all send as many, nor where all tokens are sent."""
    if sizes.recipe.training.pad_to_capacity:
        return []
    values = sizes.groups[_ALL_EXPERTS].ranks * sizes.recipe.model.num_experts
    return [sizes.call(_ALL_EXPERTS, ALL_GATHER, "int64", values, where=sizes.of.column_of("alltoall", "dispatcher"))]


def routing_maps(sizes: Sizes) -> list[Call]:
    """Which experts each token of each rank goes to: of the allgather dispatcher."""
    values = sizes.groups[_ALL_EXPERTS].ranks * sizes.shard * sizes.recipe.model.num_experts
    return [sizes.call(_ALL_EXPERTS, ALL_GATHER, "bool", values, where=sizes.of.column_of("allgather", "dispatcher"))]


def dispatch(sizes: Sizes) -> list[Call]:
    """Tokens to their experts and back."""
    if sizes.recipe.kernels.dispatch == "merged":
        return [_straight(sizes)]
    exchanges = sizes.of.column_of("alltoall", "dispatcher")
    return [*_over_experts(sizes, exchanges), *_over_parts(sizes, exchanges), *_everywhere(sizes, ~exchanges)]


def _straight(sizes: Sizes) -> Call:
    """grok1.kernels.dispatch: each pair to every rank with a part of its expert; results back."""
    parts, pairs = sizes.of.expert_tensor, sizes.routed
    rows = parts * np.maximum(pairs.sent, sizes.of.expert * pairs.received)
    return sizes.call(_ALL_EXPERTS, ALL_TO_ALL, sizes.dtype, rows * sizes.recipe.model.hidden_size, 2)


def _over_experts(sizes: Sizes, where: Where) -> list[Call]:
    """megatron's all-to-all: hidden states there and back, and their probabilities there."""
    rows = np.maximum(sizes.routed.sent, sizes.of.expert * sizes.routed.received)
    return [
        sizes.call("expert", ALL_TO_ALL, sizes.dtype, rows * sizes.recipe.model.hidden_size, 2, where),
        sizes.call("expert", ALL_TO_ALL, sizes.router_dtype, rows, 1, where),
    ]


def _over_parts(sizes: Sizes, where: Where) -> list[Call]:
    """Then to all ranks with a part of the expert, whose outputs are summed in the router's type."""
    is_even = sizes.recipe.training.pad_to_capacity
    gather, scatter = (ALL_GATHER, REDUCE_SCATTER) if is_even else (ALL_GATHER_PARTS, REDUCE_SCATTER_PARTS)
    rows = sizes.of.expert_tensor * sizes.of.expert * sizes.routed.received
    hidden = rows * sizes.recipe.model.hidden_size
    return [
        sizes.call("expert-tensor", gather, sizes.dtype, hidden, 1, where),
        sizes.call("expert-tensor", gather, sizes.router_dtype, rows, 1, where),
        sizes.call("expert-tensor", scatter, sizes.router_dtype, hidden, 1, where),
    ]


def _everywhere(sizes: Sizes, where: Where) -> list[Call]:
    """The allgather dispatcher: every token with its probabilities to every rank, whose outputs are summed."""
    model, tokens = sizes.recipe.model, sizes.groups[_ALL_EXPERTS].ranks * sizes.shard
    return [
        sizes.call(_ALL_EXPERTS, ALL_GATHER, sizes.router_dtype, tokens * model.num_experts, 1, where),
        sizes.call(_ALL_EXPERTS, ALL_GATHER, sizes.dtype, tokens * model.hidden_size, 1, where),
        sizes.call(_ALL_EXPERTS, REDUCE_SCATTER, sizes.router_dtype, tokens * model.hidden_size, 1, where),
    ]

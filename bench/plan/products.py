"""The matrix products and attention cores of a micro-batch, place by place, in closed form. No torch.

They are those that the ledger counts, with zero tolerance: FLOPs by phase and component are equal to its own. Shapes
are [rows, depth] x [depth, columns]. A product's backward is two: the gradient of its input, and that of its weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bench.plan.layouts import Ints, Places
from bench.plan.routed import routed
from bench.plan.work import Attention, Product

_BLOCK = 64  # queries of capped attention at once on a CPU, where the ledger is counted
_MATRICES = {"forward": 2, "backward": 5, "recompute": 2}  # q k^T and p v; then the scores again, dv, dp, dq and dk
_MOE = ("router", "experts")
_CORE = "attention core"


def products(places: Places, shares: Sequence[float] | None = None) -> tuple[Product, ...]:
    """The products of a micro-batch, over all layers and chunks of a place.

    `shares` are each expert's of the (token, expert) pairs, as the ledger's routing; None: all alike. An expert rank's
    rows are spread over its own experts as evenly as they go: the sum is exact, an expert's own rows are their mean.
    """
    forward = tuple(_forward(places, shares))
    backward = tuple(each for product in forward for each in _backward(product))
    again = _again(places)
    recompute = tuple(
        replace(
            product, phase="recompute", calls=product.calls // np.maximum(1, places.layers) * again[product.component]
        )
        for product in forward
        if product.component in again
    )
    return *forward, *backward, *(each for each in recompute if each.calls.any())


def attention_cores(places: Places) -> tuple[Attention, ...]:
    """The causal attention cores of a micro-batch, by phase; the recompute's where a layout has one."""
    layers = {"forward": places.layers, "backward": places.layers, "recompute": _again(places)[_CORE]}
    one_layer, calls = _scores(places)
    size = places.of.recipe.model.head_dim
    found = [
        Attention(phase, flops=2 * _MATRICES[phase] * size * one_layer // 2 * repeats, calls=calls * repeats)
        for phase, repeats in layers.items()
    ]
    return tuple(each for each in found if each.calls.any())


def matrix_flops(products: Sequence[Product], cores: Sequence[Attention]) -> dict[tuple[str, str], Ints]:
    """FLOPs of a micro-batch by (phase, component), a row a place: 2 a multiply-add."""
    flops: dict[tuple[str, str], Ints] = {}
    for product in products:
        key = product.phase, product.component
        each = 2 * product.rows * product.columns * product.depth * product.calls
        flops[key] = flops.get(key, np.zeros_like(each)) + each
    return flops | {(core.phase, _CORE): core.flops for core in cores}


# ---- products ------------------------------------------------------------------------------------------


def _forward(places: Places, shares: Sequence[float] | None) -> Iterator[Product]:
    of, model, layers = places.of, places.of.recipe.model, places.layers
    hidden = np.full_like(layers, model.hidden_size)
    query, projected = model.query_size // of.tensor, (model.query_size + 2 * model.key_value_size) // of.tensor

    def product(component: str, rows: Ints, columns: Ints, depth: Ints, calls: Ints) -> Product:
        return Product(component, "forward", rows, columns, depth, calls)

    yield product("attention projections", of.tokens, projected, hidden, layers)
    yield product("attention projections", of.tokens, hidden, query, layers)
    # a rank routes the tokens that it holds
    yield product("router", of.tokens // of.tensor, np.full_like(layers, model.num_experts), hidden, layers)
    width = model.ffn_hidden_size // of.expert_tensor
    for rows, experts in _expert_rows(places, shares):
        yield product("experts", rows, 2 * width, hidden, layers * experts)  # gate and value
        yield product("experts", rows, hidden, width, layers * experts)
    yield product("head", of.tokens, model.vocab_size // of.tensor, hidden, places.is_last.astype(np.int64))


def _expert_rows(places: Places, shares: Sequence[float] | None) -> Iterator[tuple[Ints, Ints]]:
    """(rows of an expert, local experts that have as many): those with one row more than the rest, and the rest.

    Each rank of the EP x ETP that an expert rank hears from sends it what it routes to its experts.
    """
    of = places.of
    local = of.recipe.model.num_experts // of.expert
    rows = routed(of, shares).received * of.expert * of.expert_tensor
    each, more = rows // local, rows % local
    yield each, local - more
    yield each + 1, more


def _backward(product: Product) -> Iterator[Product]:
    """The gradient of the input [rows, depth], and of the weight [columns, depth]."""
    rows, columns, depth = product.rows, product.columns, product.depth
    yield replace(product, phase="backward", columns=depth, depth=columns)
    yield replace(product, phase="backward", rows=columns, columns=depth, depth=rows)


def _again(places: Places) -> dict[str, Ints]:
    """Layers of each place whose part of that name is computed again in the backward."""
    of, layers = places.of, places.layers
    again = {name: np.zeros_like(layers) for name in ("attention projections", _CORE, *_MOE)}
    for position, recompute in enumerate(of.recomputes):
        repeated = np.zeros_like(layers)
        components: tuple[str, ...] = ()
        if recompute.kind == "full":
            components = tuple(again)
            is_block = recompute.method == "block"
            repeated = np.minimum(layers, recompute.layers * of.virtual_pipeline) if is_block else layers
        elif recompute.kind == "selective":
            components = (_CORE,) * ("core_attn" in recompute.modules) + _MOE * ("moe" in recompute.modules)
            repeated = layers
        for name in components:
            again[name] = np.where(of.recompute == position, repeated, again[name])
    return again


# ---- attention -----------------------------------------------------------------------------------------


def _scores(places: Places) -> tuple[Ints, Ints]:
    """(twice the scores of all heads that a layer computes for a micro-batch, calls).

    A context's rank that gathers keys has two chunks of queries. The first rank's, which stands for the others, are
    the first and the last of the sequence: the last meets all keys.
    """
    of, model, training = places.of, places.of.recipe.model, places.of.recipe.training
    length = np.full_like(of.tensor, training.sequence_length)
    is_gathered = (of.context > 1) & of.column_of("all_gather", "context_exchange")
    chunk = np.where(is_gathered, length // (2 * of.context), length)
    earlier = np.where(is_gathered, length - chunk, 0)
    twice = _twice_met(chunk, 0 * chunk, bool(model.attention_logit_cap))
    twice += np.where(is_gathered, _twice_met(chunk, earlier, bool(model.attention_logit_cap)), 0)
    heads = model.num_attention_heads // of.tensor
    heads //= np.where(is_gathered, 1, of.context)  # where heads are exchanged for sequence, a part of them
    return twice * heads * of.micro_batch, 1 + is_gathered.astype(np.int64)


def _twice_met(queries: Ints, earlier: Ints, is_capped: bool) -> Ints:
    """Twice the (query, key) pairs of one head that are computed, the queries coming after `earlier` keys.

    Capped, in blocks of 64 queries, each with the keys up to its own end. Not capped, half of all where queries and
    keys are the same tokens, all of them where a mask says which are seen: so torch's fused attention is counted.
    """
    if not is_capped:
        return np.where(earlier > 0, 2 * queries * (earlier + queries), queries * queries)
    whole, rest = np.divmod(queries, _BLOCK)
    return 2 * queries * earlier + _BLOCK * _BLOCK * whole * (whole + 1) + 2 * rest * queries

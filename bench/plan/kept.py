"""What a layer keeps of a micro-batch for its backward, in bytes, tensor by tensor as the ledger sees them. No torch.

Letters, each a column: t tokens that a rank routes, T tokens of its matrices (tensor ranks share them), h hidden, q all
query heads together and v all key heads, both of a tensor rank; P (token, expert) pairs that it sends, R that it gets;
F of an expert's width; w bytes of an activation, p of a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bench.plan.layouts import Floats, Ints, Places
from grok1.config.levers import expert_capacity

_FP32, _INT64 = 4, 8
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sizes:
    """The letters, and what else decides."""

    t: Ints
    T: Ints
    h: int
    q: Ints
    v: Ints
    P: Ints
    R: Ints
    F: Ints
    local: Ints  # experts of a rank
    width: int
    probability: int
    heads: Ints  # of a tensor rank
    length: Ints  # of a rank's part of a sequence

    @cached_property
    def stream(self) -> Ints:
        """Bytes of hidden states between the matrices."""
        return self.t * self.h * self.width


@dataclass(frozen=True)
class Kept:
    """Bytes that a layer keeps of a micro-batch, by part; `stream` is what it adds to the residual stream."""

    norms: Ints
    attention: Ints
    router: Ints
    dispatch: Ints
    experts: Ints

    @cached_property
    def total(self) -> Ints:
        """Their sum."""
        return sum((getattr(self, each.name) for each in fields(self)), np.zeros_like(self.norms))


def sizes_of(places: Places, skew: float | Floats = 1.0) -> Sizes:
    """The sizes at each place; its experts get `skew` times their even share of what is routed."""
    of, recipe = places.of, places.of.recipe
    model, training = recipe.model, recipe.training
    routed, local = of.tokens // of.tensor, model.num_experts // of.expert
    pairs = routed * model.experts_per_token
    own = np.minimum(np.ceil(pairs * (skew / of.expert)).astype(np.int64), routed * np.minimum(local, pairs // routed))
    capacity = _capacity(places)
    own = np.where(capacity > 0, np.minimum(own, local * capacity), own)
    sent = np.where(capacity > 0, np.minimum(pairs, model.num_experts * capacity), pairs)
    if training.pad_to_capacity and training.expert_capacity_factor:
        own, sent = local * capacity, model.num_experts * capacity
    width = 2 if training.dtype == "bf16" else 4
    return Sizes(
        t=routed,
        T=of.tokens,
        h=model.hidden_size,
        q=model.query_size // of.tensor,
        v=model.key_value_size // of.tensor,
        P=sent,
        R=own * of.expert * of.expert_tensor,
        F=model.ffn_hidden_size // of.expert_tensor,
        local=local,
        width=width,
        probability=_FP32 if training.router_dtype == "fp32" else width,
        heads=model.num_attention_heads // of.tensor,
        length=training.sequence_length // of.context,
    )


def _capacity(places: Places) -> Ints:
    """Tokens that an expert takes of a rank's; 0 where there is no limit."""
    of, recipe = places.of, places.of.recipe
    if expert_capacity(recipe.model, recipe.parallel, recipe.training) is None:
        return np.zeros(len(places), np.int64)
    pairs = of.tokens // of.tensor * recipe.model.experts_per_token
    factor = recipe.training.expert_capacity_factor
    return np.ceil(pairs / recipe.model.num_experts * factor).astype(np.int64)


# ---- a layer of which nothing is computed again --------------------------------------------------------


def kept(places: Places, sizes: Sizes) -> Kept:
    """What a layer keeps of a micro-batch where nothing is computed again."""
    return Kept(
        norms=_norms(sizes),
        attention=_attention(places, sizes),
        router=_router(places, sizes),
        dispatch=_dispatch(places, sizes),
        experts=_experts(places, sizes),
    )


def _norms(s: Sizes) -> Ints:
    """Four norms, the residual stream and what two of the norms give.

    In bf16 each has its input, its normed input and its weight in fp32, and gives nothing that is kept but what the
    first product reads. In fp32 these are what other parts made, which are counted here.
    """
    hidden = s.t * s.h * _FP32
    if s.width == _FP32:
        return 10 * hidden + 4 * _FP32 * s.t
    return 8 * hidden + 4 * _FP32 * (s.t + s.h) + s.stream


def _attention(places: Places, s: Sizes) -> Ints:
    """Rotated queries, keys and values as the core reads them, its output, the sums of its softmax, angles."""
    of, is_capped = places.of, bool(places.of.recipe.model.attention_logit_cap)
    queries, keys, fused = s.T * s.q, s.T * s.v, s.T * (s.q + 2 * s.v)
    sums = 0 if is_capped else _FP32 * s.heads * s.T
    angles = 4 * s.length * places.of.recipe.model.head_dim * s.width
    alone = fused + 2 * queries + keys if is_capped else 4 * queries
    exchanged = fused + 2 * queries if is_capped else fused + 4 * queries
    whole, part = of.recipe.training.sequence_length, of.recipe.training.sequence_length // (2 * of.context)
    seen = of.micro_batch * (whole + part)  # by the two chunks of a context's first rank, which sees the most
    if is_capped:
        gathered = 3 * queries + 2 * of.micro_batch * whole * s.v
    else:
        gathered = 3 * queries + 2 * seen * s.q + part * whole
    exchanges = of.column_of("a2a", "context_exchange")
    elements = np.where(of.context == 1, alone, np.where(exchanges, exchanged, gathered))
    return elements * s.width + sums + angles


def _router(places: Places, s: Sizes) -> Ints:
    """Its input and weight in its type, probabilities, choices, and what the two losses read."""
    model = places.of.recipe.model
    copies = s.t * s.h + model.num_experts * s.h if s.probability > s.width else 0
    inputs = copies * _FP32 + (s.stream if s.probability == 2 else 0)
    scores = s.t * model.num_experts * _FP32
    is_whole = model.router == "softmax_then_topk"
    probabilities = scores if is_whole else s.t * model.experts_per_token * _FP32
    balance = (scores + _INT64 * model.num_experts + _FP32) if model.aux_loss_coefficient else 0
    z_loss = scores + s.t * _FP32 + _FP32 if model.z_loss_coefficient else 0
    training = places.of.recipe.training
    is_cut = bool(training.expert_capacity_factor) and not training.pad_to_capacity
    within = (s.t * model.num_experts + _INT64) * is_cut  # which pairs a capacity takes
    return inputs + probabilities + s.t * model.experts_per_token * _INT64 + balance + z_loss + within


def _dispatch(places: Places, s: Sizes) -> Ints:
    """Rows for the experts, which rows they are, and their probabilities."""
    of, model = places.of, places.of.recipe.model
    rows = s.R * s.h * s.width
    map_ = s.t * model.num_experts * s.probability
    if of.recipe.kernels.dispatch == "merged":
        chosen = map_ + s.t * model.experts_per_token * s.probability
        back = s.P * s.h * s.width
        return rows + back + chosen + 4 * _INT64 * s.P + (2 * _INT64 + _FP32) * s.R + _INT64 * s.local
    alltoall = 2 * map_ + s.t * model.num_experts + s.P * _INT64 + s.R * s.probability + _counts(places, s)
    together = s.t * of.expert * of.expert_tensor * s.local
    allgather = together * (s.probability + 2) + s.R * (_INT64 + s.probability)
    return rows + np.where(of.column_of("allgather", "dispatcher"), allgather, alltoall)


def _counts(places: Places, s: Sizes) -> Ints:
    """How many rows go to each rank and to each of its experts."""
    of = places.of
    ranks = of.expert * of.expert_tensor
    return _INT64 * np.where(ranks > 1, ranks * s.local + of.expert + ranks + of.expert_tensor, s.local)


def _experts(places: Places, s: Sizes) -> Ints:
    """The first product; in megatron's own experts the activation, its product and that with the probability."""
    kernels = places.of.recipe.kernels
    is_merged = kernels.dispatch == "merged"
    if kernels.experts == "fused":
        return s.R * s.width * (2 * s.F + (0 if is_merged else s.h))
    return s.R * s.width * s.F * (4 if is_merged else 5)


# ---- with recompute ------------------------------------------------------------------------------------


def kept_of_chunk(places: Places, sizes: Sizes, whole: Kept) -> tuple[Ints, Ints, Ints]:
    """(bytes that a chunk's layers keep of a micro-batch, what more there is when one of its blocks runs again, what
    of the latter is too little until attention runs again: a core without shared keys keeps more before that).

    `whole` is what a layer keeps of which nothing runs again. Of full recompute by `block`, layers that are kept whole
    have had their backward when others run again.
    """
    of, layers = places.of, places.layers // places.of.virtual_pipeline
    one = whole.total
    total, extra, before = layers * one, np.zeros_like(one), np.zeros_like(one)
    for number, recompute in enumerate(of.recomputes):
        rows = of.recompute == number
        if recompute.kind == "full":
            again = np.minimum(recompute.layers, layers)
            if recompute.method == "block":
                found, more = again * sizes.stream + (layers - again) * one, np.where(again < layers, 0, one)
            else:
                found, more = -(-layers // recompute.layers) * sizes.stream, again * one
            norms = np.zeros_like(one)
        elif recompute.kind == "selective":
            each = _selective(places, sizes, whole, recompute.modules)
            found, more, norms = layers * each.total, one - each.total, whole.norms - each.norms
            before = np.where(rows, np.maximum(0, each.attention - whole.attention), before)
        else:
            continue
        # two of the four norms are at either of the two blocks
        total, extra = np.where(rows, found, total), np.where(rows, more - norms // 2, extra)
    return total, extra, before


def _selective(places: Places, s: Sizes, whole: Kept, modules: tuple[str, ...]) -> Kept:
    """What a layer keeps where these parts are computed again."""
    model = places.of.recipe.model
    norms, attention, router, dispatch, experts = (getattr(whole, each.name) for each in fields(Kept))
    if "moe" in modules:
        router, dispatch, experts = np.where(s.width == _FP32, 0, s.stream), dispatch * 0, experts * 0
    if "moe_act" in modules:
        experts = experts - s.R * s.width * s.F * 2
    if "layernorm" in modules:
        norms = 4 * s.stream
        if "moe" in modules or s.probability == 2:
            router = router - np.where(s.width == _FP32, 0, s.stream)
    of = places.of
    if "core_attn" in modules and model.attention_logit_cap:  # keys, too, as they were before their exchange
        is_exchanged = (of.context > 1) & of.column_of("a2a", "context_exchange")
        attention = attention + is_exchanged * s.T * s.v * s.width
    if "core_attn" in modules and not model.attention_logit_cap:
        again = (3 * s.q + 3 * s.v) * s.T * s.width + 4 * s.length * model.head_dim * s.width
        attention = np.where(of.context == 1, again, np.minimum(attention, again + 2 * s.q * s.T * s.width))
    return Kept(norms, attention, router, dispatch, experts)

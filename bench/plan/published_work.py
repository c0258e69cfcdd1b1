"""The work of published jobs: decoders of any sizes, dense or with experts, as public programs run them. No torch.

What a source does not state is as megatron-core has it: sequence parallelism with tensor parallelism, ranks in the
order TP-CP-EP-DP-PP, activations and norms as fused kernels, causal attention as half of the full matrix. The bytes of
traffic are estimates; the efficiency of memory that is fitted on them holds for them alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.plan.layouts import Floats, Ints
from bench.plan.published import PublishedRow
from bench.plan.published_exchanges import published_exchanges, shown_transfers
from bench.plan.published_places import (
    PublishedPlaces,
    predicts_by_experts,
    published_places,
    rank_parameters,
    stage_layers,
)
from bench.plan.work import Attention, Per, Product, Traffic, Work

_WIDTH = 2  # bytes of an activation
_BACKWARD_OF_ATTENTION = 2.5  # the scores are computed again: bench.ledger.operators
# Bytes that an element passes through memory, forward; the backward pass twice as many
_NORM_BYTES = 20  # two norms and two residuals of a layer, each read and written
_QKV_BYTES = 4  # positions
_ROUTED_BYTES = 8  # permute and unpermute
_SCORE_BYTES = 8  # of attention that is not fused: written, masked and normalised, read
_LOSS_BYTES = 12
# Of a ring's step, which merges what it attended to with what the steps before did: launches with those of sends and
# receives, and bytes an element of the queries, forward; backward of queries and of keys. Counted by running
# MindSpeed's own functions. Under a causal mask half of the steps have all queries and half of them the later half;
# under a general one each has all of both: [general, causal], forward each without its fused kernel and with it.
_MERGE_LAUNCHES = np.array([[20, 3], [21.5, 4.5]])
_MERGE_BYTES = np.array([[69, 7.5], [54, 7.5]])
_GRADIENT_MERGE_LAUNCHES = 7
_GRADIENT_MERGE_BYTES = np.array([[6, 12], [4.5, 9]])
# Of the optimizer, a parameter: of the rank's share, and of all that it holds
_SHARDED_BYTES = 18
_WHOLE_BYTES = 4


def published_work(rows: Sequence[PublishedRow]) -> Work:
    """The step of each row's job, a job a row; of a layer alone the phase that was timed is the step."""
    at = published_places(rows)
    return Work(
        layout=at.job,
        stage=at.stage,
        layers=at.layers,
        pipeline=at.pipeline,
        virtual_pipeline=at.virtual_pipeline,
        micro_batches=at.micro_batches,
        world_size=at.world,
        tokens_per_step=np.array([row.sequence_length * row.global_batch for row in rows], np.int64)[at.job],
        model_flops=np.array([model_flops(row) for row in rows])[at.job],
        width=_WIDTH,
        products=tuple(_products(at)),
        attention=tuple(_attention(at)),
        traffic=tuple(_traffic(at)),
        exchanges=tuple(published_exchanges(at, _WIDTH)),
        shown_transfers=shown_transfers(at),
    )


def model_flops(row: PublishedRow) -> float:
    """FLOPs of the step over all ranks: 6 a parameter that a token meets, and causal attention; no recompute."""
    sizes = row.architecture
    tokens = float(row.sequence_length * row.global_batch)
    matrices = sizes.hidden_size * (2 + sizes.is_gated)
    met = matrices * (sizes.expert_width * sizes.experts_per_token + sizes.shared_hidden_size)
    mixture, dense = met + sizes.hidden_size * sizes.num_experts, matrices * sizes.ffn_hidden_size
    if row.is_layer_alone:
        tokens = float(row.sequence_length * row.micro_batch * row.world_size)
        return tokens * (mixture if sizes.num_experts else dense) * (2 if row.metric.startswith("ms forward") else 4)
    of_scores = sizes.num_attention_heads * (sizes.head_dim + sizes.value_width) * row.sequence_length // 2
    more = row.predicting_layers
    mixtures = sum(sizes.has_experts(layer) for stage in stage_layers(row) for layer in stage)
    mixtures += more * predicts_by_experts(row)
    layers = (row.layers + more) * (sizes.attention_parameters + of_scores)
    layers += mixtures * mixture + (row.layers + more - mixtures) * dense
    ends = (1 + more) * sizes.hidden_size * sizes.vocab_size + more * 2 * sizes.hidden_size**2
    return 6.0 * tokens * float(layers + ends)


# ---- products ----------------------------------------------------------------------------------------------------


def _products(at: PublishedPlaces) -> list[Product]:
    local = np.maximum(1, at.experts // at.expert)
    ffn = at.ffn // at.tensor
    expert_ffn = np.maximum(1, at.expert_ffn // at.expert_tensor)
    rows_of_expert = np.maximum(1, at.routed // local)
    shared = np.maximum(1, at.shared // at.tensor)
    sharing = at.mixtures * (at.shared > 0)
    shapes = (  # component, rows, columns, depth, calls
        *_projections(at),
        ("mlp", at.tokens, at.first_products * ffn, at.hidden, at.dense),
        ("mlp", at.tokens, at.hidden, ffn, at.dense),
        ("router", np.maximum(1, at.tokens // at.tensor), np.maximum(1, at.experts), at.hidden, at.mixtures),
        ("experts", rows_of_expert, at.first_products * expert_ffn, at.hidden, at.mixtures * local),
        ("experts", rows_of_expert, at.hidden, expert_ffn, at.mixtures * local),
        ("shared experts", at.tokens, at.first_products * shared, at.hidden, sharing),
        ("shared experts", at.tokens, at.hidden, shared, sharing),
        ("later tokens", at.tokens, np.maximum(1, at.hidden // at.tensor), 2 * at.hidden, at.predicting),
        ("head", at.tokens, np.maximum(1, at.vocab // at.tensor), at.hidden, at.logits),
    )
    return [each for shape in shapes for each in _of_all_phases(at, *shape)]


def _projections(at: PublishedPlaces) -> list[tuple[str, Ints, Ints, Ints, Ints]]:
    """Of attention: queries, keys and values at once, or through latent widths, each rank its shard."""
    layers, name = at.layers * at.has_attention, "attention projections"
    is_latent, is_compressed = (at.latent_rank > 0).astype(np.int64), (at.query_rank > 0).astype(np.int64)
    latent, compressed = layers * is_latent, layers * is_latent * is_compressed
    shard = np.maximum(1, at.tokens // at.tensor)
    latent_rank, query_rank = np.maximum(1, at.latent_rank), np.maximum(1, at.query_rank)
    from_latent = at.heads // at.tensor * (at.head_dim - at.rope_dim + at.value_dim)
    return [
        (name, at.tokens, at.queries + at.keys_and_values, at.hidden, layers - latent),
        (name, at.tokens, at.queries, at.hidden, latent - compressed),
        (name, shard, query_rank, at.hidden, compressed),
        (name, at.tokens, at.queries, query_rank, compressed),
        (name, shard, latent_rank + at.rope_dim, at.hidden, latent),
        (name, at.tokens, from_latent, latent_rank, latent),
        (name, at.tokens, at.hidden, at.attended, layers),
    ]


def _of_all_phases(
    at: PublishedPlaces, component: str, rows: Ints, columns: Ints, depth: Ints, calls: Ints
) -> list[Product]:
    """Forward, the two products of the backward pass, and forward again where it is recomputed."""
    again = calls * at.recomputed // np.maximum(1, at.layers) * (component != "head")
    backward = calls * at.runs_backward
    return [
        Product(component, "forward", rows, columns, depth, calls * at.runs_forward),
        Product(component, "backward", rows, depth, columns, backward),
        Product(component, "backward", columns, depth, rows, backward),
        Product(component, "recompute", rows, columns, depth, again),
    ]


def _attention(at: PublishedPlaces) -> list[Attention]:
    halves = 2 - at.has_fused_attention * at.is_causal  # what is not fused multiplies the whole matrix
    of_layer = at.tokens * at.sequence * (at.queries + at.attended) * halves * at.has_attention
    backward = (of_layer * np.where(at.has_fused_attention == 1, _BACKWARD_OF_ATTENTION, 2.0)).astype(np.int64)
    of_each = at.ring * at.has_attention
    return [
        Attention("forward", of_layer * at.layers, at.layers * of_each),
        Attention("backward", backward * at.layers, at.layers * of_each),
        Attention("recompute", of_layer * at.recomputed, at.recomputed * of_each),
    ]


# ---- traffic -----------------------------------------------------------------------------------------------------


def _traffic(at: PublishedPlaces) -> list[Traffic]:
    return [*_layer_traffic(at), *_merge_traffic(at), *_loss_traffic(at), _optimizer_traffic(at)]


def _layer_traffic(at: PublishedPlaces) -> list[Traffic]:
    heads = at.heads // at.tensor
    qkv = at.tokens * (at.queries + at.keys_and_values)
    scores = at.tokens * at.sequence * heads * (1 - at.has_fused_attention)
    activation = _WIDTH * (1 + at.first_products)  # read before it, written behind it
    of_experts = at.routed * at.expert_ffn // at.expert_tensor + at.tokens * at.shared // at.tensor
    of_dense = at.tokens * at.ffn // at.tensor
    activated = np.maximum(at.recomputed, at.reactivated)
    attending = at.layers * at.has_attention
    shapes = (  # component, bytes of a layer forward, kernels, layers, layers of them recomputed
        ("norms", _NORM_BYTES * at.tokens * at.hidden // at.tensor, 4, attending, at.recomputed),
        ("attention core", _QKV_BYTES * qkv + _SCORE_BYTES * scores, 2, attending, at.recomputed),
        ("activation", activation * of_dense, 1, at.dense, activated - at.of_mixtures(activated)),
        ("activation", activation * of_experts, 1, at.mixtures, at.of_mixtures(activated)),
        ("dispatch", _ROUTED_BYTES * at.routed * at.hidden, 4, at.mixtures, at.of_mixtures(at.recomputed)),
    )
    found = []
    for component, of_layer, kernels, layers, again in shapes:
        runs = np.full_like(of_layer, kernels)
        found += [
            _of_layers(component, "forward", of_layer, runs, layers * at.runs_forward),
            _of_layers(component, "backward", 2 * of_layer, 2 * runs, layers * at.runs_backward),
            _of_layers(component, "recompute", of_layer, runs, again),
        ]
    return found


def _merge_traffic(at: PublishedPlaces) -> list[Traffic]:
    """What a ring of context ranks does beside attention itself, in each of its steps but the first."""
    queries, keys = at.tokens * at.queries, at.tokens * at.keys_and_values // 2
    merges = (at.ring - 1) * at.has_attention
    kind = at.is_causal, at.fuses_ring_update
    forward = _whole(_MERGE_BYTES[kind] * queries * merges), _whole(_MERGE_LAUNCHES[kind] * merges)
    of_queries, of_keys = _GRADIENT_MERGE_BYTES[at.is_causal].T
    backward = _whole((of_queries * queries + of_keys * keys) * merges), _GRADIENT_MERGE_LAUNCHES * merges
    return [
        _of_layers("attention core", "forward", *forward, at.layers * at.runs_forward),
        _of_layers("attention core", "backward", *backward, at.layers * at.runs_backward),
        _of_layers("attention core", "recompute", *forward, at.recomputed),
    ]


def _whole(numbers: Floats) -> Ints:
    return numbers.astype(np.int64)


def _of_layers(component: str, phase: str, of_layer: Ints, kernels: Ints, layers: Ints) -> Traffic:
    per: Per = "micro_batch"
    return Traffic(component, phase, per, of_layer * layers, kernels * layers)


def _loss_traffic(at: PublishedPlaces) -> list[Traffic]:
    logits = at.tokens * (at.vocab // at.tensor) * at.logits
    return [
        Traffic("loss", "forward", "micro_batch", _LOSS_BYTES * logits, 4 * at.logits),
        Traffic("loss", "backward", "micro_batch", 2 * _LOSS_BYTES * logits // 3, 2 * at.logits),
    ]


def _optimizer_traffic(at: PublishedPlaces) -> Traffic:
    dense, experts = rank_parameters(at)
    replicas = np.where(at.shards_optimizer == 1, at.data * at.context, 1)
    expert_replicas = np.where(at.shards_optimizer == 1, at.expert_data, 1)
    steps = at.has_attention  # a layer alone makes no optimizer step
    total = _SHARDED_BYTES * (dense // replicas + experts // expert_replicas) + _WHOLE_BYTES * (dense + experts)
    return Traffic("optimizer", "optimizer", "step", total * steps, steps)

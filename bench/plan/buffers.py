"""Weights in megatron's data-parallel buffers, and what of them a rank's optimizer owns. No torch.

As megatron.core.distributed.param_and_grad_buffer lays them out: parameters of a chunk in the reverse of the model's
order, each from a multiple of 64 values, in buckets whose ends are multiples of 128 and of the replicas. The experts
have buffers of their own where they have other replicas. Every replica holds the whole buffer, padding included, and
owns a part of each bucket: the first rank of a stage, which stands for it, the first part. Padding has no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bench.plan.layouts import Ints, Places
from grok1.config.recipe import Recipe

_PARAMETER_START, _BUCKET_END = 64, 128  # values
_BUCKET, _BUCKET_OF_A_REPLICA = 40_000_000, 1_000_000  # megatron's sizes where gradients are reduced meanwhile


@dataclass(frozen=True)
class Buffers:
    """Of a place, over its chunks, a row each."""

    dense_values: Ints  # padding included; the experts' too where these have the same replicas
    dense_buckets: Ints
    expert_values: Ints  # of buffers of their own
    expert_buckets: Ints
    owned: Ints  # values of all buffers whose optimizer state the rank has
    shards: Ints  # parameters of which it owns a part

    @property
    def values(self) -> Ints:
        """Of all buffers, padding included."""
        return self.dense_values + self.expert_values


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a stage; all that its buffers depend on beside the recipe."""

    layers: int
    tensor: int
    expert: int
    expert_tensor: int
    has_embedding: int
    has_head: int
    is_piped: int  # there is more than one stage
    replicas: int  # of the dense weights
    expert_replicas: int
    bucket: int  # values from which on a bucket is full; 0: there is one


def buffers(places: Places) -> Buffers:
    """The buffers of each place: of its first chunk, its last one, and those between, which are alike.

    Places that differ in micro-batches, recompute or dispatch alone have the same: each kind is laid out once.
    """
    of = places.of
    kinds = (of.world_size, of.tensor, of.context, of.pipeline, of.virtual_pipeline, of.expert, of.expert_tensor)
    _, first, which = np.unique(_numbers(*kinds, places.stage), return_index=True, return_inverse=True)
    alone = Places(of.take(first), places.layout[first], places.stage[first])
    chunks = alone.of.virtual_pipeline
    several = chunks > 1
    total = np.zeros((len(alone), len(fields(Buffers))), np.int64)
    for is_first, is_last, count in ((True, ~several, 1), (False, True, several), (False, False, chunks - 2)):
        times = np.broadcast_to(np.maximum(0, count), chunks.shape).astype(np.int64)
        total += times[:, None] * _of_chunks(alone, is_first, is_last)
    return Buffers(*total[which.reshape(-1)].T)


def _of_chunks(places: Places, is_first: bool, is_last: bool | np.ndarray) -> Ints:
    """[places, columns of Buffers] of such a chunk of each place. Equal chunks are laid out once."""
    of, kernels = places.of, places.of.recipe.kernels
    # megatron cuts the first stage's first chunk alone
    is_cut = is_first and kernels.gradient_reduction == "overlapped"
    bucket = np.maximum(_BUCKET, _BUCKET_OF_A_REPLICA * of.data) * (places.stage == 0) * is_cut
    columns = (
        places.layers // of.virtual_pipeline,
        of.tensor,
        of.expert,
        of.expert_tensor,
        (places.is_first & is_first).astype(np.int64),
        (places.is_last & is_last).astype(np.int64),
        (of.pipeline > 1).astype(np.int64),
        of.data * of.context,
        of.expert_data,
        bucket,
    )
    _, first, which = np.unique(_numbers(*columns), return_index=True, return_inverse=True)
    laid_out = [_lay_out(of.recipe, _Chunk(*(int(column[row]) for column in columns))) for row in first]
    return np.array(laid_out, np.int64)[which.reshape(-1)]


def _numbers(*columns: Ints) -> Ints:
    """A number for each row, the same for equal rows: sorting numbers is much faster than sorting rows."""
    number, most = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        size = int(column.max(initial=0)) + 1
        if most * size >= 1 << 62:
            values, number = np.unique(number, return_inverse=True)
            number, most = number.reshape(-1), len(values)
        number, most = number * size + column, most * size
    return number


def _lay_out(recipe: Recipe, chunk: _Chunk) -> tuple[int, ...]:
    """A chunk's columns of Buffers."""
    dense, experts = _layer(recipe, chunk)
    is_apart = chunk.expert > 1 or chunk.expert_tensor != chunk.tensor
    # in the order of the buffer: layers, of which each begins with the norms after its blocks
    layer = dense if is_apart else np.concatenate([dense[:2], experts, dense[2:]])
    own_end = np.array([recipe.model.vocab_size * recipe.model.hidden_size // chunk.tensor], np.int64)
    has_own_head = chunk.has_head and not (recipe.model.tie_embeddings and chunk.has_embedding)
    head, embedding = own_end[: int(has_own_head)], own_end[: chunk.has_embedding]
    last_norm = np.array([recipe.model.hidden_size] * chunk.has_head, np.int64)
    middle = np.concatenate([last_norm, np.tile(layer, chunk.layers)])
    if recipe.model.tie_embeddings and chunk.is_piped:  # what two stages share has buckets of its own
        segments = [(head, True), (middle, False), (embedding, True)]
    else:
        segments = [(np.concatenate([head, middle, embedding]), False)]
    own_segments = [(np.tile(experts, chunk.layers), False)] if is_apart else []
    *own, own_owned, own_shards = _buffer(own_segments, chunk.expert_replicas, chunk.bucket)
    *shared, owned, shards = _buffer(segments, chunk.replicas, chunk.bucket)
    return *shared, *own, owned + own_owned, shards + own_shards


def _layer(recipe: Recipe, chunk: _Chunk) -> tuple[Ints, Ints]:
    """Sizes of a layer's parameters, (dense, experts'), each in the order of the buffer."""
    model = recipe.model
    hidden, query = model.hidden_size, model.query_size // chunk.tensor
    projection = hidden * (query + 2 * model.key_value_size // chunk.tensor)
    dense = [hidden, hidden, model.num_experts * hidden, hidden, projection, hidden * query, hidden]
    output = hidden * model.ffn_hidden_size // chunk.expert_tensor
    local = model.num_experts // chunk.expert
    is_stacked = recipe.kernels.experts == "grouped"  # all experts' first products in one weight, the second in another
    experts = [output * local, 2 * output * local] if is_stacked else [output, 2 * output] * local
    return np.array(dense, np.int64), np.array(experts, np.int64)


def _buffer(segments: list[tuple[Ints, bool]], replicas: int, bucket: int) -> tuple[int, int, int, int]:
    """(values, buckets, owned values, shards) of a buffer of (sizes, whether they have a bucket of their own)."""
    divisor = math.lcm(replicas, _BUCKET_END)
    position = end = buckets = owned = shards = 0
    for sizes, is_own in segments:
        for part in _full_buckets(sizes, bucket):
            lengths = _up(part, _PARAMETER_START)
            starts = position + np.cumsum(lengths) - lengths
            begin, position = end, int(starts[-1] + part[-1])
            end = _up(position, divisor)
            limit = begin + (end - begin) // replicas
            mine = np.clip(np.minimum(starts + part, limit) - np.maximum(starts, begin), 0, None)
            buckets, owned, shards = buckets + 1, owned + int(mine.sum()), shards + int((mine > 0).sum())
            if is_own or (bucket and position - begin >= bucket):
                position = end
        # a bucket of its own begins there, its first parameter perhaps a little before
        position = _up(position, _PARAMETER_START)
        position = position if position % replicas == 0 else _up(position, divisor)
        end = _up(position, divisor)
    return end, buckets, owned, shards


def _full_buckets(sizes: Ints, bucket: int) -> list[Ints]:
    """The parameters of each bucket: so many that they have at least `bucket` values, padding between them included."""
    if not bucket and len(sizes):
        return [sizes]
    parts = []
    while len(sizes):
        lengths = _up(sizes, _PARAMETER_START)
        ends = np.cumsum(lengths) - lengths + sizes
        count = min(len(sizes), int(np.searchsorted(ends, bucket)) + 1)
        parts.append(sizes[:count])
        sizes = sizes[count:]
    return parts


def _up(value: Any, step: int) -> Any:
    """The next multiple of `step`."""
    return -(-value // step) * step

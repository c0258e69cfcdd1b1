"""Weights in megatron's data-parallel buffers, and what of them a rank's optimizer owns. No torch.

As megatron.core.distributed.param_and_grad_buffer lays them out: parameters of a chunk in the reverse of the model's
order, each from a multiple of 64 values, in buckets whose ends are multiples of 128 and of the replicas. The experts
have buffers of their own where they have other replicas. Every replica holds the whole buffer, padding included, and
owns a part of each bucket: the first rank of a stage, which stands for it, the first part. Padding has no state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

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


_Laid = tuple[int, int, int, int]  # values, buckets, owned values, shards


class _Chunk(NamedTuple):
    """What the buffers of a stage's chunk depend on, numbers or columns of them; 0 where a buffer does not."""

    layers: Any
    bucket: Any  # values from which on a bucket is full; 0: there is one
    expert: Any = 0
    expert_tensor: Any = 0
    replicas: Any = 0  # of its weights
    tensor: Any = 0
    has_embedding: Any = 0
    has_head: Any = 0
    is_piped: Any = 0  # there is more than one stage


_Make = Callable[[_Chunk], _Laid]


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
    shared, apart = (functools.cache(functools.partial(make, of.recipe)) for make in (_shared_buffer, _experts_buffer))
    for is_first, is_last, count in ((True, ~several, 1), (False, True, several), (False, False, chunks - 2)):
        times = np.broadcast_to(np.maximum(0, count), chunks.shape).astype(np.int64)
        total += times[:, None] * _of_chunks(alone, is_first, is_last, shared, apart)
    return Buffers(*total[which.reshape(-1)].T)


def _of_chunks(places: Places, is_first: bool, is_last: bool | np.ndarray, shared: _Make, apart: _Make) -> Ints:
    """[places, columns of Buffers] of such a chunk of each place."""
    of, kernels = places.of, places.of.recipe.kernels
    # megatron cuts the first stage's first chunk alone
    is_cut = is_first and kernels.gradient_reduction == "overlapped"
    bucket = np.maximum(_BUCKET, _BUCKET_OF_A_REPLICA * of.data) * (places.stage == 0) * is_cut
    layers, is_together = places.layers // of.virtual_pipeline, (of.expert == 1) & (of.expert_tensor == of.tensor)
    dense = _each_once(
        shared,
        _Chunk(
            layers,
            bucket,
            of.expert * is_together,
            of.expert_tensor * is_together,
            of.data * of.context,
            of.tensor,
            places.is_first & is_first,
            places.is_last & is_last,
            of.pipeline > 1,
        ),
    )
    own = _each_once(apart, _Chunk(layers, bucket, of.expert, of.expert_tensor, of.expert_data))
    own = np.where(is_together[:, None], 0, own)
    return np.concatenate([dense[:, :2], own[:, :2], dense[:, 2:] + own[:, 2:]], axis=1)


def _each_once(make: _Make, columns: _Chunk) -> Ints:
    """[rows, 4] of what is made of each row of the columns; equal rows are made once."""
    given = np.broadcast_arrays(*(np.asarray(column, np.int64) for column in columns))
    _, first, which = np.unique(_numbers(*given), return_index=True, return_inverse=True)
    made = [make(_Chunk(*row)) for row in np.stack(given, axis=1)[first].tolist()]
    return np.array(made, np.int64)[which.reshape(-1)]


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


def _shared_buffer(recipe: Recipe, chunk: _Chunk) -> _Laid:
    """Of the dense parameters, and of the experts where these have the same replicas."""
    dense = _dense_parameters(recipe, chunk)
    # in the order of the buffer: layers, of which each begins with the norms after its blocks
    layer = np.concatenate([dense[:2], _expert_parameters(recipe, chunk), dense[2:]]) if chunk.expert else dense
    own_end = np.array([recipe.model.vocab_size * recipe.model.hidden_size // chunk.tensor], np.int64)
    has_own_head = chunk.has_head and not (recipe.model.tie_embeddings and chunk.has_embedding)
    head, embedding = own_end[: int(has_own_head)], own_end[: chunk.has_embedding]
    last_norm = np.array([recipe.model.hidden_size] * chunk.has_head, np.int64)
    middle = np.concatenate([last_norm, np.tile(layer, chunk.layers)])
    if recipe.model.tie_embeddings and chunk.is_piped:  # what two stages share has buckets of its own
        segments = [(head, True), (middle, False), (embedding, True)]
    else:
        segments = [(np.concatenate([head, middle, embedding]), False)]
    return _buffer(segments, chunk.replicas, chunk.bucket)


def _experts_buffer(recipe: Recipe, chunk: _Chunk) -> _Laid:
    """Of experts that have other replicas than the dense parameters."""
    experts = np.tile(_expert_parameters(recipe, chunk), chunk.layers)
    return _buffer([(experts, False)], chunk.replicas, chunk.bucket)


def _dense_parameters(recipe: Recipe, chunk: _Chunk) -> Ints:
    """Sizes of a layer's dense parameters, in the order of the buffer."""
    model = recipe.model
    hidden, query = model.hidden_size, model.query_size // chunk.tensor
    projection = hidden * (query + 2 * model.key_value_size // chunk.tensor)
    dense = [hidden, hidden, model.num_experts * hidden, hidden, projection, hidden * query, hidden]
    return np.array(dense, np.int64)


def _expert_parameters(recipe: Recipe, chunk: _Chunk) -> Ints:
    """Sizes of a layer's experts' parameters, in the order of the buffer."""
    model = recipe.model
    output = model.hidden_size * model.ffn_hidden_size // chunk.expert_tensor
    local = model.num_experts // chunk.expert
    is_stacked = recipe.kernels.experts == "grouped"  # all experts' first products in one weight, the second in another
    return np.array([output * local, 2 * output * local] if is_stacked else [output, 2 * output] * local, np.int64)


def _buffer(segments: list[tuple[Ints, bool]], replicas: int, bucket: int) -> _Laid:
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

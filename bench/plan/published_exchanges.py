"""The exchanges of published jobs: which collectives their ranks call, on which groups, how many bytes. No torch."""

from __future__ import annotations

import numpy as np

from bench.plan.layouts import Floats, Ints
from bench.plan.published_places import PublishedPlaces, rank_parameters
from bench.plan.work import Exchange, Per

_GATHER, _SCATTER, _REDUCE = "all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"
_ALL_TO_ALL = "all_to_all_single"


def published_exchanges(at: PublishedPlaces, width: int) -> list[Exchange]:
    """All exchanges of a step; `width` is the bytes of an activation."""
    return [*_tensor(at, width), *_experts(at, width), *_context(at, width), *_pipeline(at, width), *_data(at)]


def _exchange(
    phase: str, group: str, operation: str, per: Per, calls: Ints, call_bytes: Ints, ranks: Ints, stride: Ints,
    dtype: str = "bfloat16",
) -> Exchange:  # fmt: skip
    """Calls of a group of one rank do not happen."""
    happening = calls * (ranks > 1)
    return Exchange(phase, group, operation, dtype, per, happening, happening * call_bytes, ranks, stride)


def _tensor(at: PublishedPlaces, width: int) -> list[Exchange]:
    """Sequence parallelism: before and behind attention, and before and behind a dense MLP or shared experts."""
    one = np.ones_like(at.stage)
    row_bytes = at.tokens * at.hidden * width
    calls = at.layers * at.has_attention + at.dense + at.mixtures * (at.shared > 0)
    per_layer, again = calls, calls * at.recomputed // np.maximum(1, at.layers)
    forward, backward = per_layer * at.runs_forward, per_layer * at.runs_backward

    def on_tensor(phase: str, operation: str, calls: Ints, call_bytes: Ints) -> Exchange:
        return _exchange(phase, "tensor", operation, "micro_batch", calls, call_bytes, at.tensor, one)

    return [
        on_tensor("forward", _GATHER, forward + at.logits, row_bytes),
        on_tensor("forward", _SCATTER, forward + at.is_first, row_bytes),
        on_tensor("forward", _REDUCE, 3 * at.logits, at.tokens * 4),
        # the input of the weights' gradient is gathered again
        on_tensor("backward", _GATHER, 2 * backward + at.logits + at.is_first, row_bytes),
        on_tensor("backward", _SCATTER, backward + at.logits, row_bytes),
        on_tensor("recompute", _GATHER, again, row_bytes),
        on_tensor("recompute", _SCATTER, again, row_bytes),
    ]


def _experts(at: PublishedPlaces, width: int) -> list[Exchange]:
    runs = {
        "forward": at.mixtures * at.runs_forward,
        "backward": at.mixtures * at.runs_backward,
        "recompute": at.of_mixtures(at.recomputed),
    }
    return [each for phase, calls in runs.items() for each in _of_dispatchers(at, width, phase, calls)]


def _of_dispatchers(at: PublishedPlaces, width: int, phase: str, runs: Ints) -> list[Exchange]:
    """All-to-all among expert ranks and then gathering within each expert's, or all tokens gathered by all of them."""
    token = at.tokens * at.hidden * width // at.tensor  # bytes of the tokens of a rank
    sent, one = (token * at.chosen * at.padding).astype(np.int64), np.ones_like(runs)
    gathered, everywhere = runs * at.gathers_tokens, at.expert_tensor * at.expert
    passed = runs - gathered

    def of_group(group: str, operation: str, calls: Ints, call_bytes: Ints, ranks: Ints, stride: Ints) -> Exchange:
        return _exchange(phase, group, operation, "micro_batch", calls, call_bytes, ranks, stride)

    return [
        of_group("expert", _ALL_TO_ALL, 2 * passed, sent, at.expert, at.expert_tensor),
        of_group("expert-tensor", _GATHER, passed, sent * at.expert_tensor, at.expert_tensor, one),
        of_group("expert-tensor", _SCATTER, passed, sent * at.expert_tensor, at.expert_tensor, one),
        of_group("expert-tensor x expert", _GATHER, gathered, token * everywhere, everywhere, one),
        of_group("expert-tensor x expert", _SCATTER, gathered, token * everywhere, everywhere, one),
    ]


def _context(at: PublishedPlaces, width: int) -> list[Exchange]:
    """Keys and values of the whole sequence: a ring passes as many bytes as a gather."""
    gathered = at.tokens * at.context * at.keys_and_values * width
    layers = at.layers * at.has_attention
    return [
        _exchange("forward", "context", _GATHER, "micro_batch", layers, gathered, at.context, at.tensor),
        _exchange("backward", "context", _GATHER, "micro_batch", layers, gathered, at.context, at.tensor),
        _exchange("backward", "context", _SCATTER, "micro_batch", layers, gathered, at.context, at.tensor),
        _exchange("recompute", "context", _GATHER, "micro_batch", at.recomputed, gathered, at.context, at.tensor),
    ]


def _pipeline(at: PublishedPlaces, width: int) -> list[Exchange]:
    """A chunk's output to the next stage, and its gradient back; the last chunk of the last stage sends no output."""
    sent = at.tokens * at.hidden * width // at.tensor
    ends = (at.pipeline > 1).astype(np.int64)
    out = at.virtual_pipeline - (at.stage == at.pipeline - 1)
    back = at.virtual_pipeline - (at.stage == 0)
    stride = at.world // at.pipeline
    return [
        _exchange("pipeline", "pipeline", operation, "micro_batch", calls * ends, sent, at.pipeline, stride)
        for operation, calls in (("send", out + back), ("receive", out + back))
    ]


def shown_transfers(at: PublishedPlaces) -> Floats:
    """Share of the transfers between stages that shows.

    Where stages have several chunks, megatron sends while it computes, once the pipeline is full: its default. While
    it fills and empties, a stage waits for what it sends and gets. The last stage waits for the first micro-batch to
    come through p - 1 stages, and then runs (v - 1) p chunks forward before it has a turn of both.
    """
    filling = at.pipeline - 1 + (at.virtual_pipeline - 1) * at.pipeline
    of_chunks = np.minimum(1.0, filling / (at.micro_batches * at.virtual_pipeline))
    return np.where(at.virtual_pipeline > 1, of_chunks, 1.0)


def _data(at: PublishedPlaces) -> list[Exchange]:
    """Gradients in fp32, summed over replicas; weights gathered where the optimizer's states are sharded."""
    found = []
    dense, experts = rank_parameters(at)
    for group, parameters, ranks, stride in (
        ("data", dense, at.data * at.context, at.tensor),
        ("expert-data", experts, at.expert_data, at.expert_tensor * at.expert),
    ):
        steps = at.has_attention * (parameters > 0)
        shards = steps * at.shards_optimizer
        found += [
            _exchange("gradients", group, _SCATTER, "step", shards, 4 * parameters, ranks, stride, "float32"),
            _exchange("gradients", group, _REDUCE, "step", steps - shards, 4 * parameters, ranks, stride, "float32"),
            _exchange("optimizer", group, _GATHER, "step", shards, 2 * parameters, ranks, stride),
        ]
    return found

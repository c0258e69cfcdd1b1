"""The exchanges of published jobs: which collectives their ranks call, on which groups, how many bytes. No torch."""

from __future__ import annotations

from functools import partial

import numpy as np

from bench.plan.layouts import Floats, Ints
from bench.plan.published_places import PublishedPlaces, rank_parameters
from bench.plan.work import Exchange, Per

_GATHER, _SCATTER, _REDUCE = "all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"
_ALL_TO_ALL = "all_to_all_single"

_Part = tuple[Ints, Ints]  # calls of a kind, and how many values of each token one exchanges


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
    """Sequence parallelism: what products read is gathered from all shards, what they give is summed into shards.

    As megatron-core has it from 0.14 on: a rank's latent widths are whole, of its own shard, and are exchanged in place
    of hidden states. A layer that predicts has an embedding and a projection beside what others have.
    """
    entering, leaving, positions = _of_layers(at)
    head, embedding = (at.logits, at.hidden), (at.is_first + at.predicting, at.hidden)
    pairs, projected = (at.predicting, 2 * at.hidden), (at.predicting, at.hidden)

    def on_tensor(phase: str, operation: str, parts: list[_Part]) -> Exchange:
        calls = np.asarray(sum(calls for calls, _ in parts)) * (at.tensor > 1)
        values = np.asarray(sum(calls * values for calls, values in parts)) * (at.tensor > 1)
        num_bytes, one = values * at.tokens * width, np.ones_like(at.stage)
        return Exchange(phase, "tensor", operation, "bfloat16", "micro_batch", calls, num_bytes, at.tensor, one)

    def again(parts: list[_Part]) -> list[_Part]:
        return [(calls * at.recomputed // np.maximum(1, at.layers), values) for calls, values in parts]

    forward, backward = partial(_times, at.runs_forward), partial(_times, at.runs_backward)
    of_loss = 3 * at.logits, at.tokens * 4, at.tensor, np.ones_like(at.stage)  # maxima, targets, sums of exponentials
    return [
        on_tensor("forward", _GATHER, [*forward([*entering, *positions]), head, pairs, projected]),
        on_tensor("forward", _SCATTER, [*forward(leaving), embedding]),
        _exchange("forward", "tensor", _REDUCE, "micro_batch", *of_loss, "float32"),
        # the input of the weights' gradient is gathered again
        on_tensor("backward", _GATHER, [*backward([*entering, *leaving]), head, embedding, pairs, projected]),
        on_tensor("backward", _SCATTER, [*backward([*entering, *positions]), head, pairs]),
        on_tensor("recompute", _GATHER, again([*entering, *positions, pairs, projected])),
        on_tensor("recompute", _SCATTER, again(leaving)),
    ]


def _of_layers(at: PublishedPlaces) -> tuple[list[_Part], list[_Part], list[_Part]]:
    """What all layers' products read, and give, and the keys' positions where latent attention has them apart."""
    attending = at.layers * at.has_attention
    latent = attending * (at.latent_rank > 0)
    compressed = latent * (at.query_rank > 0)
    blocks = at.dense + at.mixtures * (at.shared > 0)
    entering = [
        (attending - compressed + blocks, at.hidden),
        (compressed, at.query_rank),
        (latent, at.latent_rank),
    ]
    return entering, [(attending + blocks, at.hidden)], [(latent, at.rope_dim)]


def _times(runs: Ints, parts: list[_Part]) -> list[_Part]:
    return [(calls * runs, values) for calls, values in parts]


def _experts(at: PublishedPlaces, width: int) -> list[Exchange]:
    runs = {
        "forward": at.mixtures * at.runs_forward,
        "backward": at.mixtures * at.runs_backward,
        "recompute": at.of_mixtures(at.recomputed),
    }
    return [each for phase, calls in runs.items() for each in _of_dispatchers(at, width, phase, calls)]


def _of_dispatchers(at: PublishedPlaces, width: int, phase: str, runs: Ints) -> list[Exchange]:
    """All-to-all among expert ranks and then gathering within each expert's, or all tokens gathered by all of them.

    Of tokens alone: their probabilities, counts and masks are left out.
    """
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

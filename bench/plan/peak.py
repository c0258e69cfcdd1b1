"""The most that a rank holds during a step: what stays between steps, and a bound of what comes and goes. No torch.

A step is fullest at one of a few moments: in the last layer's experts, forward, backward, or again where they are
recomputed; at the logits; where the embedding's gradient is made; in attention's backward; in the update, which copies
gradients that are not in fp32. What layers keep at each is counted tensor by tensor (bench.plan.kept); what a moment
takes beside it is bounded from above, so the sum is never below the ledger's peak on the tests' sample. docs/planner.md
states how far above it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.plan.buffers import Buffers, buffers
from bench.plan.kept import Flags, Sizes, kept, kept_of_chunk, sizes_of
from bench.plan.layouts import Floats, Ints, Places
from bench.plan.memory import BetweenSteps, between_steps

_FP32, _INT64 = 4, 8
_CROSS_ENTROPY_BLOCK = 1 << 20  # elements of fp32 logits at a time, of the fused one
MOMENTS = (
    *("experts, forward", "experts, backward", "logits", "embedding, backward", "attention, backward", "update"),
    "experts, again",
)


@dataclass(frozen=True)
class Peak:
    """Of each place, bytes: what stays, and what there is beside it at the fullest moment."""

    stays: BetweenSteps
    moment: Ints  # a position in MOMENTS
    activations: Ints  # kept for the backward, over all chunks in flight
    temporary: Ints
    logits: Ints  # logits, losses and their gradients

    @cached_property
    def total(self) -> Ints:
        """At least the ledger's `peak_bytes`."""
        return self.stays.total + self.activations + self.temporary + self.logits


def peak(places: Places, skew: float | Floats = 1.0, reuses: bool = False) -> Peak:
    """The peak of each place, whose experts get `skew` times their even share; `reuses` as `between_steps` has it."""
    sizes, held = sizes_of(places, skew), buffers(places)
    whole = kept(places, sizes)
    of_chunk, again, before = kept_of_chunk(places, sizes, whole)
    again = again + _norms_again(places, sizes)
    flying = chunks_in_flight(places)
    ends = _ends(places, sizes)
    steady = _steady(places, sizes)
    everything = flying * (of_chunk + ends) + steady
    inputs, tied = _gradients_of_inputs(places, sizes), _tied_gradient(places, sizes)
    rest = everything - np.where(flying > 0, of_chunk, 0)
    nothing = np.zeros(len(places), np.int64)
    logits = _logits(places, sizes)
    forward = _experts_forward(places, sizes)
    moments = (  # kept, temporary, logits
        (everything, forward, nothing),
        (everything, again + before + inputs + _experts_backward(places, sizes) + tied, nothing),
        (np.where(places.is_last, everything, 0), nothing, np.where(places.is_last, logits, 0)),
        (
            np.where(places.is_first, rest, 0),
            np.where(places.is_first, _embedding(places, sizes), 0) + 2 * tied,
            nothing,
        ),
        # its layer's experts are done
        (everything, again + inputs + _attention(places, sizes) - whole.experts - whole.dispatch + tied, nothing),
        (2 * inputs, _copies(places, held) + _hidden(sizes) + steady, nothing),
        (everything, _again(places) * (again + before + inputs + forward + tied), nothing),
    )
    totals = np.stack([sum(parts) for parts in moments])
    fullest = totals.argmax(axis=0)
    parts = [np.stack([each[number] for each in moments])[fullest, np.arange(len(places))] for number in range(3)]
    return Peak(between_steps(places, reuses, held), fullest, *parts)


def chunks_in_flight(places: Places) -> Ints:
    """grok1.config.stages.chunks_in_flight of each place."""
    of, after = places.of, places.of.pipeline - places.stage - 1
    interleaved = 2 * after + (of.virtual_pipeline - 1) * of.pipeline
    before = np.where(of.virtual_pipeline == 1, after, interleaved)
    return np.minimum(before + 1, of.micro_batches * of.virtual_pipeline)


# ---- beside the layers ---------------------------------------------------------------------------------


def _ends(places: Places, s: Sizes) -> Ints:
    """Of a chunk of a micro-batch: what it receives and what it sends on; in fp32 the latter is its last layer's."""
    several = places.of.virtual_pipeline > 1
    received = ~places.is_first | several
    sent = ~places.is_last | several
    hidden = np.where(s.width == _FP32, 1, received.astype(np.int64) + sent)
    return hidden * s.stream + places.is_first * (_INT64 + 1) * s.T


def _steady(places: Places, s: Sizes) -> Ints:
    """Tokens, routing maps and losses of a step, until they are reported; what a layer's dispatcher remembers."""
    of, model = places.of, places.of.recipe.model
    steps = np.minimum(of.micro_batches, np.where(of.virtual_pipeline > 1, 3 * of.pipeline, of.pipeline + 2))
    maps = steps * s.t * model.num_experts
    if of.recipe.training.pad_to_capacity:
        maps = maps * (places.layers + 1)
    batch = 4 * _INT64 * s.T * of.context
    return batch + maps + _remembered(places, s) + 4 * _FP32 * of.micro_batches + _INT64 * 2 * model.num_experts


def _remembered(places: Places, s: Sizes) -> Ints:
    """By the dispatchers of all layers: of the rows that they sent in a forward that is run again, or, merged, of the
    micro-batch before, whose graph is there until the next one's is where no pipeline lets go of it.
    """
    of, model = places.of, places.of.recipe.model
    by_all = s.t * of.expert * of.expert_tensor * s.local * (1 + s.probability) + _INT64 * s.R
    by_pair = s.t * model.num_experts * s.probability + _INT64 * s.P
    if of.recipe.kernels.dispatch == "merged":
        route = 2 * _INT64 * (s.P + s.R) + s.t * model.experts_per_token * s.probability + _INT64 * s.local
        is_left = _again(places) | ((of.micro_batches > 1) & (of.pipeline == 1))
        by_pair = np.where(is_left, np.maximum(route, by_pair), by_pair)
    gathers = of.column_of("allgather", "dispatcher") & _again(places)
    return places.layers * np.where(gathers, np.maximum(by_all, by_pair), by_pair)


def _again(places: Places) -> Flags:
    """Where experts are computed again."""
    found = np.array([each.kind == "full" or "moe" in each.modules for each in places.of.recomputes])
    return np.asarray(found[places.of.recompute])


def _norms_again(places: Places, s: Sizes) -> Ints:
    """Where norms are computed again: two outputs, which meet their gradients."""
    has_norms = np.array(["layernorm" in each.modules for each in places.of.recomputes])
    return np.asarray(2 * s.stream * has_norms[places.of.recompute])


def _hidden(s: Sizes) -> Ints:
    """Gradients of the residual stream, and of what a stage receives: some copies of hidden states, partly in fp32."""
    return 3 * s.stream + 2 * _FP32 * s.t * s.h


def _fullest(places: Places, s: Sizes) -> Ints:
    """Rows of a rank's fullest expert: each rank that sends some cuts its own as evenly as it can."""
    ranks = places.of.expert * places.of.expert_tensor
    return np.asarray(-(-s.R // (ranks * s.local)) * ranks)


def _wide(places: Places, s: Sizes) -> int:
    """Bytes of an expert's result on its way back."""
    return s.width if places.of.recipe.kernels.dispatch == "merged" else max(s.width, s.probability)


def _experts_forward(places: Places, s: Sizes) -> Ints:
    """Results of all experts, sorted, sent back and summed."""
    rows, sent = s.R * s.h, s.P * s.h
    if places.of.recipe.kernels.dispatch != "merged":
        # sorted, and then in the type of probabilities for the sum over copies
        is_sorted = (s.local > 1) & (places.of.expert_tensor > 1) & places.of.column_of("alltoall", "dispatcher")
        widened = is_sorted & (s.probability > s.width)
        return rows * s.width * (1 + widened) + (rows + sent) * _wide(places, s) + _hidden(s)
    wide, copies = max(s.width, s.probability), places.of.expert_tensor
    exchanges = copies * places.of.expert > 1
    # times probabilities in their type; sent and come back from each copy, and summed; times weights
    scaled = s.width + (wide + s.width * (wide > s.width) if places.of.recipe.kernels.experts == "fused" else s.width)
    summed = exchanges * copies * s.width + 2 * _FP32 * (copies > 1)
    back = np.maximum(rows * (1 + exchanges) * s.width + sent * summed, rows * s.width + sent * (s.width + wide))
    return np.maximum(rows * scaled, back) + _hidden(s)


def _experts_backward(places: Places, s: Sizes) -> Ints:
    """Gradients of the rows, of the fullest expert's products, and of one weight."""
    kernels = places.of.recipe.kernels
    rows, fullest = s.R * s.h, _fullest(places, s)
    wide = fullest * s.F * s.width
    first = 2 * s.F * s.h * s.width  # the gradient of an expert's first weight
    if kernels.experts == "fused":
        weight = first * _widens(places)
        # where one expert's products follow another's, some of both are there
        inner = np.maximum(np.where(s.local > 1, 6, 4) * wide, 4 * wide + fullest * s.h * s.width)
        if kernels.gradient_reduction == "overlapped":
            weight = weight + s.local * (first + first // 2)
        return 3 * rows * s.width + rows * (_wide(places, s) - s.width) * 2 + inner + weight + 4 * s.stream
    widens = s.probability > s.width and kernels.dispatch != "merged"
    # the second product's, its inner ones, the first product's: by then what the expert kept is going
    inside = np.maximum(
        first // 2 + wide,
        np.maximum((5 if widens else 2) * wide, first - 2 * wide + fullest * s.h * s.width),
    )
    before = rows * (s.width + _wide(places, s)) + inside + 4 * s.stream
    # where probabilities are wider than activations, three inner gradients are, less one that was kept; the rows' own
    # are gone by then but for other experts'
    others = np.where(s.local > 1, 2 * rows * s.width, 0)
    return np.maximum(before, 6 * wide + others + 2 * s.stream) if widens else before


def _attention(places: Places, s: Sizes) -> Ints:
    """Gradients of queries, of keys and values for each query head, and of both weights.

    Where a context group gathers keys and values, the first rank's last chunk has gradients of all of them.
    """
    of, fused = places.of, s.q + 2 * s.v
    gathers = (of.context > 1) & ~of.column_of("a2a", "context_exchange")
    spread = np.where(gathers, s.T * of.context * (2 * s.q + 4 * s.v), 0)
    elements = 5 * s.T * s.q + 2 * s.T * fused + s.h * fused + s.T * s.h + spread
    return elements * s.width + _hidden(s)


def _gradients_of_inputs(places: Places, s: Sizes) -> Ints:
    """Of what a chunk's recomputed parts began with: they stay as long as that does, until the next step."""
    of, layers = places.of, places.layers // places.of.virtual_pipeline
    parts = np.array([(each.kind == "full") + ("moe" in each.modules) for each in of.recomputes])
    return parts[of.recompute] * layers * s.stream


def _logits(places: Places, s: Sizes) -> Ints:
    """Logits with their copies, or with their gradient and the head's; the last norm."""
    model, kernels = places.of.recipe.model, places.of.recipe.kernels
    part = model.vocab_size // places.of.tensor
    elements, weight = s.T * part, part * s.h * s.width
    if kernels.cross_entropy == "megatron":
        loss = np.full_like(elements, 2 * _FP32) * elements
    else:
        rows = np.minimum(s.T, np.maximum(1, _CROSS_ENTROPY_BLOCK // part))
        blocks = (2 if s.width == 2 else 1) + (rows < s.T)  # while one is computed, the one before is still there
        loss = 2 * s.width * elements + blocks * _FP32 * rows * part
    backward = elements * s.width + _head_gradients(places) * weight + s.T * s.h * s.width
    vectors = 12 * _FP32 * s.T + 3 * _FP32 * s.T * np.maximum(1, places.of.tensor)
    norm = 2 * _FP32 * s.t * s.h + s.stream + _FP32 * (s.t + s.h)
    passing = np.where(places.of.pipeline > 1, 2, 1) * s.stream  # from a stage to the next, and back
    return np.maximum(loss, backward) + norm + vectors + passing


def _head_gradients(places: Places) -> int:
    """Tensors of the size of the head's weight that its backward makes."""
    kernels = places.of.recipe.kernels
    is_added_in_place = kernels.linear == "fused" and not _widens(places)
    return int(not is_added_in_place) + (kernels.linear == "fused" and kernels.gradient_reduction == "overlapped")


def _widens(places: Places) -> bool:
    """Whether gradients are made in another type than that of their buffer."""
    training = places.of.recipe.training
    return training.dtype == "bf16" and training.gradient_dtype == "fp32"


def _embedding(places: Places, s: Sizes) -> Ints:
    """The gradient of its rows, and of what they gave."""
    model = places.of.recipe.model
    return model.vocab_size // places.of.tensor * s.h * s.width + _hidden(s) + s.T * s.h * s.width


def _tied_gradient(places: Places, s: Sizes) -> Ints:
    """The head's gradient, which waits for the embedding's where one rank has both."""
    model, kernels = places.of.recipe.model, places.of.recipe.kernels
    is_returned = kernels.linear != "fused" or kernels.gradient_reduction == "overlapped"
    both = places.is_first & places.is_last & (model.tie_embeddings and is_returned)
    return both * (model.vocab_size // places.of.tensor * s.h * s.width)


def _copies(places: Places, held: Buffers) -> Ints:
    """Gradients in fp32 of the values that a rank owns, where its buffers are not: from the update to the next step."""
    training = places.of.recipe.training
    return held.owned * (_FP32 if training.gradient_dtype == "bf16" else 0)

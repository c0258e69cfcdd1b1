"""What a rank holds between steps, in bytes, exactly as the ledger counts it. No torch.

Weights and gradients lie in megatron's buffers, padding included (bench.plan.buffers). The ledger calls optimizer's all
else that outlives a step: AdamW's moments of the values that the rank owns, their fp32 copies in bf16 training, the
rotary angles, the buffer in which megatron gathers what tensor ranks split, and a few small tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.plan.buffers import Buffers, buffers
from bench.plan.layouts import Ints, Places

_FP32, _INT64 = 4, 8
_MOMENTS = 2 * _FP32
_HALF = 2  # bytes of an fp32 copy that the bf16 weight holds already, where they share memory


@dataclass(frozen=True)
class BetweenSteps:
    """Bytes of each place between two steps."""

    weights: Ints
    gradients: Ints
    state: Ints  # AdamW's
    workspace: Ints  # all else that stays

    @property
    def total(self) -> Ints:
        """The ledger's `static_bytes`."""
        return self.weights + self.gradients + self.state + self.workspace


def between_steps(places: Places, reuses: bool = False, held: Buffers | None = None) -> BetweenSteps:
    """What each place holds between steps.

    `reuses` takes `training.reuse_fp32_parameters` at its word; the ledger does not, as a CPU has no such thing.
    `held` are the places' buffers where they are known already.
    """
    training, held = places.of.recipe.training, held or buffers(places)
    width = width_of(places)
    state = _MOMENTS + (_FP32 if training.dtype == "bf16" else 0)
    state -= _HALF if reuses and training.reuse_fp32_parameters else 0
    return BetweenSteps(
        weights=held.values * width,
        gradients=held.values * (2 if training.gradient_dtype == "bf16" else 4),
        state=held.owned * state + held.shards * _FP32,  # AdamW counts each tensor's steps
        workspace=gathering_bytes(places) + _small(places),
    )


def width_of(places: Places) -> int:
    """Bytes of a weight and of an activation."""
    return 2 if places.of.recipe.training.dtype == "bf16" else 4


def gathering_bytes(places: Places) -> Ints:
    """megatron's buffer for what is gathered over tensor ranks: hidden states of the whole sequence.

    The allgather dispatcher gathers in it too, over all ranks that share experts.
    """
    of, model = places.of, places.of.recipe.model
    ranks = np.where(of.tensor > 1, of.tensor, 0)
    group = of.expert * of.expert_tensor
    gathered = of.column_of("allgather", "dispatcher") & (group > 1)
    ranks = np.maximum(ranks, np.where(gathered, group, 0))
    return ranks * (of.tokens // of.tensor) * model.hidden_size * width_of(places)


def _small(places: Places) -> Ints:
    """Rotary angles, permutations of experts' tokens, routing as planned, counts of tokens, sums of losses."""
    of, model = places.of, places.of.recipe.model
    length = of.recipe.training.sequence_length // of.context
    angles = of.virtual_pipeline * _FP32 * model.head_dim * length + of.virtual_pipeline * _FP32 * (model.head_dim // 2)
    permutes = of.column_of("alltoall", "dispatcher")
    # there and back, which are one where nothing is to permute
    ways = np.where((of.expert == model.num_experts) | (of.expert * of.expert_tensor == 1), 1, 2)
    permutations = np.where(permutes, ways * _INT64 * model.num_experts * of.expert_tensor, 0)
    counts = places.layers * (_INT64 * model.num_experts + permutations)
    planned = of.tokens // of.tensor * model.num_experts  # True or False each
    sums = _FP32 * model.num_layers * (bool(model.aux_loss_coefficient) + bool(model.z_loss_coefficient))
    return angles + counts + planned + sums + _FP32

"""Which layouts of a recipe fit a device, and what the fullest rank of each holds. No torch.

A rank needs its tensors at the peak, its communicators' buffers, and a margin for what no count sees, as
grok1.config.memory adds them up for one recipe; here for all layouts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.plan.kept import Flags
from bench.plan.layouts import Ints, Layouts, Places, Recompute, different_stages, layouts_of
from bench.plan.legal import legal_layouts
from bench.plan.peak import MOMENTS, Peak, peak
from bench.plan.rules import is_sound
from grok1.config.memory import HCCL_BUFFER_MB, MARGIN_BYTES
from grok1.config.recipe import Recipe

PARTS = ("weights", "gradients", "optimizer", "activations", "temporary", "logits", "communicators", "margin")
_PLACES_AT_ONCE = 200_000  # some hundred columns of these are alive together
ORDER = "those that fit, by least recompute, then fewest splits, then largest micro-batch, then least memory"


# what a job would try: nothing again, what is cheap, what saves most without all of it, all; of more there are others
USUAL_RECOMPUTES = (
    Recompute(),
    Recompute("selective", modules=("core_attn",)),
    Recompute("selective", modules=("layernorm", "moe")),
    Recompute("full"),
)


@dataclass(frozen=True)
class Fits:
    """Layouts and their fullest rank, a row each. Bytes."""

    layouts: Layouts
    available: int  # of a device
    skew: float
    stage: Ints  # of the fullest rank
    moment: Ints  # a position in bench.plan.peak.MOMENTS
    parts: Ints  # [layouts, PARTS]
    communicators: Ints  # how many

    @cached_property
    def tensors(self) -> Ints:
        """The fullest rank's peak: at least what the ledger counts."""
        return np.asarray(self.parts[:, :6].sum(axis=1))

    @cached_property
    def need(self) -> Ints:
        """With communicators and margin."""
        return np.asarray(self.parts.sum(axis=1))

    @cached_property
    def fit(self) -> Flags:
        """Where a device has what a rank needs."""
        return np.asarray(self.need <= self.available)

    def moment_of(self, row: int) -> str:
        """When the fullest rank is fullest."""
        return MOMENTS[self.moment[row]]

    def best_first(self) -> Ints:
        """Rows by ORDER; those that do not fit follow, by what they need."""
        of = self.layouts
        again = np.array([_recomputed(each.kind, each.modules) for each in of.recomputes])[of.recompute]
        splits = of.tensor * of.context * of.pipeline * of.virtual_pipeline * of.expert * of.expert_tensor
        keys = (self.need, -of.micro_batch, splits, again)
        fitting, need = self.fit, self.need
        return np.lexsort(
            (need, *(np.where(fitting, key, 0) for key in keys[1:]), np.where(fitting, 0, need), ~fitting)
        )


def fits(
    layouts: Layouts, available: int, skew: float = 1.0, reuses: bool = True, buffer_mb: int = HCCL_BUFFER_MB
) -> Fits:
    """The fullest rank of each layout, and whether it fits.

    Args:
        available: bytes that a rank's device shows.
        skew: the fullest expert rank gets so many times its even share.
        reuses: take `training.reuse_fp32_parameters` at its word, which the ledger does not.
        buffer_mb: HCCL_BUFFSIZE; 0 where the device's communicators are not HCCL's.
    """
    found = [_fullest(part, skew, reuses) for part in _in_pieces(layouts)]
    stage, moment, parts = (np.concatenate([each[number] for each in found]) for number in range(3))
    count = communicators(layouts)
    beside = np.stack([count * 2 * buffer_mb * 10**6, np.full(len(layouts), MARGIN_BYTES)], axis=1)
    return Fits(layouts, available, skew, stage, moment, np.concatenate([parts, beside], axis=1), count)


def candidates(recipe: Recipe, world_size: int, axes: Sequence[str]) -> Layouts:
    """Legal layouts over these axes; of recompute the usual choices and the recipe's own.

    Raises:
        ValueError: there is none, with the nearest world sizes that have one; or an axis is not one.
    """
    usual = [each for each in USUAL_RECOMPUTES if is_sound(each, recipe)]
    return legal_layouts(recipe, world_size, axes, [*layouts_of(recipe).recomputes, *usual])


def communicators(layouts: Layouts) -> Ints:
    """grok1.config.memory.communicators of each layout."""
    of, recipe = layouts, layouts.recipe
    exchanges = of.column_of("alltoall", "dispatcher") & (recipe.kernels.dispatch == "megatron")
    are_apart = (of.expert > 1) | (of.expert_tensor != of.tensor)
    has_shared_load = (of.context > 1) & (recipe.model.aux_loss_coefficient > 0)
    sizes = (
        of.tensor,
        of.pipeline,
        of.context,
        np.where(has_shared_load, of.tensor * of.context, 1),
        of.data * of.context,
        np.where(are_apart, of.expert_data, 1),
        np.where(exchanges, of.expert, 1),
        np.where(exchanges, of.expert_tensor, 1),
        of.expert_tensor * of.expert,
        np.where(recipe.model.tie_embeddings, of.pipeline, 1),
        of.world_size,
    )
    return np.asarray(sum((size > 1).astype(np.int64) for size in sizes))


def _in_pieces(layouts: Layouts) -> list[Layouts]:
    """So many at once that the columns of their places fit a laptop's memory."""
    most = _PLACES_AT_ONCE // 3
    return [layouts.take(slice(start, start + most)) for start in range(0, len(layouts), most)]


def _fullest(layouts: Layouts, skew: float, reuses: bool) -> tuple[Ints, Ints, Ints]:
    """(stage, moment, [layouts, parts of tensors]) of each layout's fullest place."""
    places = different_stages(layouts)
    found = peak(places, skew, reuses)
    starts = np.searchsorted(places.layout, np.arange(len(layouts)))
    most = np.maximum.reduceat(found.total, starts)
    fullest = np.flatnonzero(found.total == most[places.layout])
    first = fullest[np.searchsorted(places.layout[fullest], np.arange(len(layouts)))]
    return places.stage[first], found.moment[first], _parts(places, found)[first]


def _parts(places: Places, found: Peak) -> Ints:
    stays = found.stays
    optimizer = stays.state + stays.workspace
    return np.stack(
        [stays.weights, stays.gradients, optimizer, found.activations, found.temporary, found.logits], axis=1
    )


def _recomputed(kind: str, modules: tuple[str, ...]) -> int:
    """How much runs again, for the order: nothing, a norm, attention's core, experts, all."""
    costs = {"layernorm": 1, "moe_act": 2, "core_attn": 3, "moe": 10}
    return {"none": 0, "full": 20}.get(kind, sum(costs[each] for each in modules))

"""What a rank needs of its device beside its tensors, and which choices of a recipe need less. No torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe

# HCCL gives each communicator two buffers, one to send and one to receive, of HCCL_BUFFSIZE MB each (CANN's manual)
HCCL_BUFFER_MB = 200
# for what no count sees: the allocator's fragmentation, what kernels allocate inside themselves, the driver's context
MARGIN_BYTES = 1 << 30
SHOWN_GIB = 60.96  # the least that an Ascend card sold as 64 GB shows; others show up to 61.27

SMALLER = "choose a smaller recipe, or split it over more ranks"

_CHEAPER = (
    ("kernels.experts=fused", "kernels.dispatch=merged", "parallel.dispatcher=alltoall"),
    ("training.gradient_dtype=bf16",),
    ("training.recompute=selective", 'training.recompute_modules=["layernorm","moe"]'),
    ("training.recompute=full",),
)


@dataclass(frozen=True)
class Need:
    """The parts of what a rank needs of its device, in bytes."""

    tensors: int
    communicators: int  # how many
    buffers: int  # of all of them
    margin: int = MARGIN_BYTES

    @property
    def total(self) -> int:
        """Their sum."""
        return self.tensors + self.buffers + self.margin

    @property
    def told(self) -> str:
        """The sum, in words."""
        return (
            f"{self.tensors / 2**30:.2f} GiB of tensors, {self.buffers / 2**30:.2f} of {self.communicators} "
            f"communicators and {self.margin / 2**30:.2f} of margin are {self.total / 2**30:.2f} GiB"
        )


def need(recipe: Recipe, tensors: int | None = None, buffer_mb: int = HCCL_BUFFER_MB) -> Need:
    """What a rank needs, with the recipe's estimate of its tensors unless they were counted.

    `buffer_mb` is HCCL_BUFFSIZE; 0 where the device's communicators are not HCCL's.
    """
    count = communicators(recipe)
    return Need(recipe.bytes_per_rank() if tensors is None else tensors, count, count * 2 * buffer_mb * 10**6)


def communicators(recipe: Recipe) -> int:
    """Groups of more than one rank that the fullest rank's step communicates in: the ledger's, by name."""
    parallel = recipe.parallel
    exchanges = parallel.dispatcher == "alltoall" and recipe.kernels.dispatch == "megatron"
    # else experts are reduced with the dense weights
    are_apart = parallel.expert > 1 or parallel.expert_tensor != parallel.tensor
    # one sequence's tokens, counted by expert over the ranks that it is split over
    has_shared_load = parallel.context > 1 and recipe.model.aux_loss_coefficient > 0
    sizes = {
        "tensor": parallel.tensor,
        "pipeline": parallel.pipeline,
        "context": parallel.context,
        "tensor x context": parallel.tensor * parallel.context if has_shared_load else 1,
        "data x context": parallel.data * parallel.context,
        "expert-data": parallel.expert_data if are_apart else 1,
        "expert": parallel.expert if exchanges else 1,
        "expert-tensor": parallel.expert_tensor if exchanges else 1,
        "expert-tensor x expert": parallel.expert_tensor * parallel.expert,
        "embedding": parallel.pipeline if recipe.model.tie_embeddings else 1,
        "world": parallel.world_size,
    }
    return sum(size > 1 for size in sizes.values())


def choices_that_fit(recipe: Recipe, available: int, buffer_mb: int = HCCL_BUFFER_MB) -> list[str]:
    """Changes of the recipe, as `--set` takes them, with which it needs no more than `available` bytes."""
    found = []
    for changes in _CHEAPER:
        try:
            changed = build_recipe(recipe.name, recipe.resolved(), changes)
        except ValueError:  # such as bf16 gradients of fp32 weights
            continue
        wanted = need(changed, buffer_mb=buffer_mb)
        if changed != recipe and wanted.total <= available:
            settings = " ".join(f"--set {shlex.quote(change)}" for change in changes)
            found.append(f"{settings} ({wanted.total / 2**30:.1f} GiB)")
    return found


def what_fits(recipe: Recipe, available: int, buffer_mb: int = HCCL_BUFFER_MB) -> str:
    """The remedy for a recipe that needs too much, in words."""
    found = choices_that_fit(recipe, available, buffer_mb)
    return f"what fits: {'; '.join(found)}" if found else SMALLER

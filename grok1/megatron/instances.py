"""Changes to live objects of megatron's: what they do that nobody reads, and what a CPU does faster otherwise."""

from __future__ import annotations

import functools
from typing import Any

import torch


def skip_single_rank_collectives(wrapped: Any) -> None:
    """Leave out the collectives of data-parallel groups of one, where gloo copies the whole buffer several times."""
    for group in wrapped.bucket_groups + wrapped.expert_parallel_bucket_groups:
        if group.intra_distributed_optimizer_instance_size == 1:
            group.start_grad_sync = functools.partial(_scale_gradients, group)
            group.start_param_sync = _keep_weights


def _scale_gradients(group: Any) -> None:
    """What is left of a reduction: experts that are not replicated still average over the replicas of the rest."""
    for bucket in group.buckets:
        if bucket.gradient_scaling_factor != 1.0:
            bucket.grad_data *= bucket.gradient_scaling_factor
    if group.ddp_config.overlap_grad_reduce:
        group.grad_reduce_handle = _NothingToWaitFor


class _NothingToWaitFor:
    @staticmethod
    def wait() -> None:
        """Returns at once."""


def _keep_weights(force_sync: bool = False) -> None:
    """What is left of gathering: this rank has all of them."""


def skip_unread_work(optimizer: Any) -> None:
    """Count no zeros, and gather the weights once a step.

    A chain of megatron-core 0.12 counts the gradients' zeros whatever `log_num_zeros_in_grad` says, with an all-reduce
    of the whole job; and each part of it, when done, has the whole model gathered: the last part's is enough.
    """
    optimizer.count_zeros = _no_count
    for part in _parts(optimizer)[:-1]:
        part.model_chunks = []  # without megatron's FSDP, read for that gathering only


def _no_count() -> None:
    """In place of the number of zeros."""


def use_fused_adamw(optimizer: Any) -> bool:
    """Make each torch AdamW inside megatron's optimizer update its parameters in one pass; only before the first step.

    Without Transformer Engine or apex, megatron takes torch's AdamW, whose default on a CPU is a dozen operators for
    each parameter. The fused kernel rounds differently in the last bit. It is left out where it cannot be used; the
    answer is whether it is used throughout.
    """
    inner = [part.optimizer for part in _parts(optimizer)]
    can_fuse = [_can_fuse(each) for each in inner]
    for each, can in zip(inner, can_fuse, strict=True):
        if can:
            for settings in (each.defaults, *each.param_groups):
                settings |= {"fused": True, "foreach": False}
    return all(can_fuse)


def clip_and_step(optimizer: Any, clip_grad: float) -> tuple[bool, float | None, None]:
    """megatron's step of a chain with the gradients clipped inside the fused kernel, not in two passes before it.

    The kernel divides by a scale where megatron multiplies by its inverse, so clipped steps differ by rounding; both
    leave the gradients clipped.
    """
    if optimizer.prepare_grads():
        return False, None, None
    grad_norm: float = optimizer.get_grad_norm()
    excess = (grad_norm + 1e-6) / clip_grad if clip_grad else 0.0
    scale = torch.tensor(excess, dtype=torch.float32) if excess > 1.0 else None
    for part in _parts(optimizer):
        part.optimizer.grad_scale = scale  # torch.amp.GradScaler hands the kernel its scale in the same way
    return bool(optimizer.step_with_ready_grads()), grad_norm, None


def _parts(optimizer: Any) -> list[Any]:
    """The optimizers that megatron has chained: the dense parameters', and that of experts held on some ranks only."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _can_fuse(optimizer: Any) -> bool:
    """Is it torch's AdamW over float32 tensors, with no state that another kernel has made?"""
    if type(optimizer) is not torch.optim.AdamW or optimizer.state:
        return False
    return all(each.dtype == torch.float32 for group in optimizer.param_groups for each in group["params"])

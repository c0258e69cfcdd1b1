"""Optimizer and schedule: megatron's distributed AdamW, warm-up, cosine decay."""

from __future__ import annotations

import functools
from typing import Any

import torch

from grok1 import device
from grok1.config import Training
from grok1.engine import OptimizerConfig, OptimizerParamScheduler, get_megatron_optimizer


def build_optimizer(model: torch.nn.Module, training: Training) -> tuple[Any, Any]:
    """(optimizer, learning-rate scheduler) over this rank's shards."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=training.learning_rate,
        min_lr=training.min_learning_rate,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_eps=training.adam_epsilon,
        clip_grad=training.clip_grad,
        bf16=training.dtype == "bf16",
        params_dtype=torch.bfloat16 if training.dtype == "bf16" else torch.float32,
        use_distributed_optimizer=True,
    )
    optimizer = get_megatron_optimizer(config, [model], use_gloo_process_groups=False)
    _leave_out_what_nobody_reads(optimizer)
    if device.kind() == "cpu" and _use_fused_kernel(optimizer):
        optimizer.step = functools.partial(_clip_and_step, optimizer, training.clip_grad)
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=training.learning_rate,
        min_lr=training.min_learning_rate,
        lr_warmup_steps=training.warmup_steps,
        lr_decay_steps=training.decay_steps,
        lr_decay_style="cosine",
        start_wd=training.weight_decay,
        end_wd=training.weight_decay,
        wd_incr_steps=training.decay_steps,
        wd_incr_style="constant",
    )
    return optimizer, scheduler


def _leave_out_what_nobody_reads(optimizer: Any) -> None:
    """Count no zeros, and gather the weights once a step.

    A chain of megatron-core 0.12 counts the gradients' zeros whatever `log_num_zeros_in_grad` says, with an all-reduce
    of the whole job; and each part of it, when done, has the whole model gathered: the last part's is enough.
    """
    optimizer.count_zeros = _no_count
    for part in _parts(optimizer)[:-1]:
        part.model_chunks = []  # without megatron's FSDP, read for that gathering only


def _no_count() -> None:
    """In place of the number of zeros."""


def _use_fused_kernel(optimizer: Any) -> bool:
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


def _clip_and_step(optimizer: Any, clip_grad: float) -> tuple[bool, float | None, None]:
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

"""Optimizer and schedule: megatron's distributed AdamW, warm-up, cosine decay."""

from __future__ import annotations

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
    if device.kind() == "cpu":
        _use_fused_kernel(optimizer)
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


def _use_fused_kernel(optimizer: Any) -> None:
    """Make each torch AdamW inside megatron's optimizer update its parameters in one pass; only before the first step.

    Without Transformer Engine or apex, megatron takes torch's AdamW, whose default on a CPU is a dozen operators for
    each parameter. The fused kernel rounds differently in the last bit. It is left out where it cannot be used.
    """
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if _can_fuse(part.optimizer):
            for settings in (part.optimizer.defaults, *part.optimizer.param_groups):
                settings |= {"fused": True, "foreach": False}


def _can_fuse(optimizer: Any) -> bool:
    """Is it torch's AdamW over float32 tensors, with no state that another kernel has made?"""
    if type(optimizer) is not torch.optim.AdamW or optimizer.state:
        return False
    return all(each.dtype == torch.float32 for group in optimizer.param_groups for each in group["params"])

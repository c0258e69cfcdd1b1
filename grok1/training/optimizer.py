"""Optimizer and schedule: megatron's distributed AdamW, warm-up, cosine decay."""

from __future__ import annotations

import torch

from grok1.config.sections import Training
from grok1.megatron.door import OptimizerConfig, OptimizerParamScheduler, get_megatron_optimizer
from grok1.megatron.instances import (
    clip_inside_fused_adamw,
    skip_unread_work,
    update_one_tensor_at_a_time,
    use_fused_adamw,
)
from grok1.megatron.protocols import MegatronOptimizer, Scheduler
from grok1.weights.chunks import Chunks

# What is before the tied weight in its buffer is padded to 64 values, and its bucket to 128.
TIED_ENDS = (
    "megatron-core cannot put the tied embedding of several stages (model.tie_embeddings) into its gradient buffer, as "
    "the weights before it do not fill a multiple of 128 values; take a model.hidden_size of a multiple of 128, or "
    "parallel.pipeline=1"
)


def build_optimizer(model: Chunks, training: Training, *, stock: bool = False) -> tuple[MegatronOptimizer, Scheduler]:
    """(optimizer, learning-rate scheduler) over this rank's shards; `stock`: all as megatron makes it."""
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
    try:
        optimizer: MegatronOptimizer = get_megatron_optimizer(config, list(model), use_gloo_process_groups=False)
    except AssertionError as error:
        if "param_gbuf_map" in str(error):
            raise ValueError(TIED_ENDS) from error
        raise
    if not stock:
        update_one_tensor_at_a_time(optimizer)
        skip_unread_work(optimizer)  # a CPU's alone, as are those below
        if use_fused_adamw(optimizer):
            clip_inside_fused_adamw(optimizer, training.clip_grad)
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

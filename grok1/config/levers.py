"""Choices of a recipe that fit together or do not: recompute, capacity, forced routing, gathering weights. No torch."""

from __future__ import annotations

import math

from grok1.config.sections import Kernels, Model, Parallel, Training
from grok1.config.stages import stage_layers


def check_levers(model: Model, parallel: Parallel, training: Training, kernels: Kernels) -> None:
    """Refuse what megatron would refuse after the ranks have started, and what would do nothing."""
    _check_recompute(training)
    if training.recompute == "full":
        _check_full_recompute(model, parallel, training)
    if training.recompute == "selective":
        _check_selective_recompute(training, kernels)
    _check_capacity(model, parallel, training, kernels)
    if kernels.param_gather == "overlapped":
        _check_overlapped_gather(training, kernels)


def expert_capacity(model: Model, parallel: Parallel, training: Training) -> int | None:
    """The most tokens of one rank's micro-batch that an expert takes; None where none is dropped."""
    if not training.expert_capacity_factor:
        return None
    pairs = tokens_routed_at_once(parallel, training) * model.experts_per_token
    return math.ceil(pairs / model.num_experts * training.expert_capacity_factor)


def tokens_routed_at_once(parallel: Parallel, training: Training) -> int:
    """Tokens of a micro-batch that one rank's router sees: its part of each sequence."""
    return training.sequence_length * training.micro_batch // (parallel.tensor * parallel.context)


def _check_recompute(training: Training) -> None:
    """Refuse details of a kind of recompute that is not chosen."""
    fields = Training.model_fields
    kinds = {"full": ("recompute_method", "recompute_layers"), "selective": ("recompute_modules",)}
    for kind, keys in kinds.items():
        for key in keys:
            if training.recompute != kind and getattr(training, key) != fields[key].get_default():
                raise ValueError(
                    f"training.{key} {getattr(training, key)} with training.recompute {training.recompute}: it is of "
                    f"{kind} recompute; set training.recompute={kind}, or leave {key} out"
                )


def _check_full_recompute(model: Model, parallel: Parallel, training: Training) -> None:
    size = training.recompute_layers
    for layers in sorted({stage // parallel.virtual_pipeline for stage in stage_layers(model.num_layers, parallel)}):
        if size > layers or (training.recompute_method == "uniform" and layers % size):
            wants = "divides them" if training.recompute_method == "uniform" else "is at most that"
            raise ValueError(
                f"training.recompute_layers {size} with recompute_method {training.recompute_method} and {layers} "
                f"layers in a pipeline stage or its chunk; choose a number that {wants}"
            )


def _check_selective_recompute(training: Training, kernels: Kernels) -> None:
    modules = training.recompute_modules
    if not modules or len(set(modules)) < len(modules):
        raise ValueError(
            f"training.recompute_modules {modules} with recompute selective: name each module once, at least one, or "
            "set training.recompute=none"
        )
    if "moe_act" in modules and "moe" in modules:
        raise ValueError(
            "training.recompute_modules moe_act with moe: all of the experts is recomputed already; leave moe_act out"
        )
    if "moe_act" in modules and kernels.experts not in ("grouped", "te_grouped"):
        why = (
            "fused experts compute their activation again without being told; leave moe_act out"
            if kernels.experts == "fused"
            else "megatron recomputes the activation of grouped experts alone; set kernels.experts=fused and leave "
            "moe_act out, or kernels.experts=grouped"
        )
        raise ValueError(f"training.recompute_modules moe_act with kernels.experts {kernels.experts}: {why}")
    if "core_attn" in modules and kernels.attention == "te":
        raise ValueError(
            "training.recompute_modules core_attn with kernels.attention te: Transformer Engine's attention computes "
            "its scores again without being told; leave core_attn out, or set kernels.attention=torch"
        )


def _check_capacity(model: Model, parallel: Parallel, training: Training, kernels: Kernels) -> None:
    capacity, factor = expert_capacity(model, parallel, training), training.expert_capacity_factor
    if capacity is None:
        fields = Training.model_fields
        for key in ("expert_drop_policy", "pad_to_capacity"):
            if getattr(training, key) != fields[key].default:
                raise ValueError(
                    f"training.{key} {getattr(training, key)} with expert_capacity_factor 0: without a capacity "
                    f"nothing is dropped or padded; set training.expert_capacity_factor, or leave {key} out"
                )
        return
    tokens = tokens_routed_at_once(parallel, training)
    if capacity > tokens:
        raise ValueError(
            f"training.expert_capacity_factor {factor:g} lets an expert take {capacity} of the {tokens} tokens that a "
            f"rank routes at once; set at most {model.num_experts / model.experts_per_token:g} (num_experts / "
            "experts_per_token), or 0 to drop none"
        )
    if kernels.dispatch != "megatron":
        raise ValueError(
            f"kernels.dispatch {kernels.dispatch} with training.expert_capacity_factor {factor:g}: it sends each token "
            "to as many experts as any other; set kernels.dispatch=megatron, or training.expert_capacity_factor=0"
        )


def _check_overlapped_gather(training: Training, kernels: Kernels) -> None:
    if kernels.gradient_reduction != "overlapped":
        raise ValueError(
            f"kernels.param_gather overlapped with kernels.gradient_reduction {kernels.gradient_reduction}: weights "
            "are gathered bucket by bucket, as gradients are reduced; set kernels.gradient_reduction=overlapped, or "
            "kernels.param_gather=at_end"
        )
    if training.reuse_fp32_parameters:
        raise ValueError(
            "kernels.param_gather overlapped with training.reuse_fp32_parameters true: weights that hold half of their "
            "fp32 copies are whole only after the update's own gathering; set kernels.param_gather=at_end"
        )

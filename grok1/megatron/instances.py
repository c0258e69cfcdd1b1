"""Changes to live objects of megatron's. Nobody else changes one; tests/test_house.py holds that.

Each function says what it sets, why, for which versions and on which devices. Two kinds: marks and settings that
megatron itself reads, on all devices; and work left out or done otherwise because it is faster, which is `cpu_only`:
it was executed on a CPU, and on no other device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, cast

import torch

from grok1.device.kind import cpu_only
from grok1.megatron.protocols import (
    BucketGroup,
    DdpModel,
    InferenceContext,
    MegatronOptimizer,
    ModelConfig,
    OptimizerPart,
    StepOutcome,
    Timers,
)

# ---- settings that megatron reads ----------------------------------------------------------------------


def connect_schedule(
    config: ModelConfig,
    *,
    timers: Timers,
    scale_loss: Callable[[torch.Tensor], torch.Tensor],
    finalize_gradients: Callable[..., None],
    no_sync: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    """Tell the pipeline schedules what to call: megatron's training loop sets the same four attributes.

    With `no_sync`, one of each model chunk, gradients are reduced during the last micro-batch's backward only.
    megatron-core 0.12, 0.16, 0.19; all devices.
    """
    config.timers = timers
    config.grad_scale_func = scale_loss
    config.finalize_model_grads_func = finalize_gradients
    if no_sync:
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]


@contextmanager
def temporary_settings(config: ModelConfig, **values: object) -> Iterator[None]:
    """Set attributes of a config, and put the old values back at the end. For benchmarks that leave something out.

    megatron-core 0.12, 0.16, 0.19; all devices.
    """
    before = {name: getattr(config, name) for name in values}
    for name, value in values.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def disable_sequence_parallelism(config: ModelConfig) -> None:
    """For inference: a decoding step is one token long, which cannot be split.

    TransformerConfig's constructor refuses tensor and expert parallelism without it, which only training needs.
    megatron-core 0.12, 0.16, 0.19; all devices.
    """
    config.sequence_parallel = False


def keep_last_logits_only(context: InferenceContext) -> None:
    """Compute logits of the last position alone while decoding. megatron-core 0.12, 0.16, 0.19; all devices."""
    context.materialize_only_last_token_logits = True


def set_cached_length(context: InferenceContext, length: int) -> None:
    """How many positions the key/value cache holds; the decoder counts. megatron-core 0.12, 0.16, 0.19; all devices."""
    context.sequence_len_offset = length


# ---- marks on parameters, and classes of layers --------------------------------------------------------


def mark_sequence_parallel(weight: torch.nn.Parameter, is_split: bool) -> None:
    """Whether each tensor rank sees only its part of the sequence, so that megatron must sum this weight's gradient.

    megatron-core 0.12, 0.16, 0.19 (finalize_model_grads reads the mark); all devices.
    """
    weight.sequence_parallel = is_split  # type: ignore[attr-defined]


def mark_experts_apart(model: torch.nn.Module) -> None:
    """Have megatron reduce, average and step the experts over their own replicas, not over those of the dense weights.

    It marks experts so where expert parallelism is above 1, and forgets that their replicas are others as well where
    an expert is split more or fewer ways than attention is: gradients were then summed over ranks that hold different
    parts of an expert, and not over those that hold the same. megatron-core 0.12, 0.16 (0.19 marks them itself); all
    devices.
    """
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.allreduce = False  # type: ignore[attr-defined]


def mark_gradients_awaited(model: torch.nn.Module) -> None:
    """Tell grok1.kernels.gemm that gradients are reduced during the backward, so megatron's hooks want a tensor.

    Our own mark on megatron's parameters. megatron-core 0.12, 0.16, 0.19; all devices.
    """
    for parameter in model.parameters():
        parameter.is_awaited = True  # type: ignore[attr-defined]


def mark_gradient_added(weight: torch.Tensor) -> None:
    """Tell megatron's hook that `main_grad` has this gradient already, and what autograd returns is to be dropped.

    megatron-core 0.12, 0.16, 0.19 (its own fused layers set the same mark); all devices.
    """
    weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]


def change_class(layer: torch.nn.Module, to: type, **state: object) -> None:
    """Make a layer that megatron has built one of a subclass with the same state, and what the subclass has more.

    GPTModel builds its output layer without asking for a class, and MoELayer its router. megatron-core 0.12, 0.16,
    0.19; all devices.
    """
    layer.__class__ = to
    for name, value in state.items():
        setattr(layer, name, value)


# ---- weights that are gathered during the forward ------------------------------------------------------


def await_weights_of_children(wrapped: DdpModel, kind: type) -> None:
    """Have each module of a kind wait for its children's weights, which it reads without calling the children.

    megatron waits before a module's forward for that module's own weights, and not for its children's. megatron-core
    0.12, 0.16, 0.19; all devices.
    """

    def wait(module: torch.nn.Module, _inputs: object) -> None:
        for parameter in module.parameters():
            wrapped.param_to_bucket_group[parameter].finish_param_sync()

    for module in wrapped.modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(wait)


# ---- data-parallel groups of one rank ------------------------------------------------------------------


@cpu_only
def skip_single_rank_collectives(wrapped: DdpModel) -> None:
    """Leave out the collectives of data-parallel groups of one, where gloo copies the whole buffer several times.

    megatron-core 0.12, 0.16, 0.19; CPU only.
    """
    for group in wrapped.bucket_groups + wrapped.expert_parallel_bucket_groups:
        if group.intra_distributed_optimizer_instance_size == 1:
            group.start_grad_sync = functools.partial(_scale_gradients, group)
            group.start_param_sync = _gather_nothing


def _scale_gradients(group: BucketGroup, force_all_reduce: bool = False) -> None:
    """What is left of a reduction: experts that are not replicated still average over the replicas of the rest."""
    for bucket in group.buckets:
        if bucket.gradient_scaling_factor != 1.0:
            bucket.grad_data *= bucket.gradient_scaling_factor
    if group.ddp_config.overlap_grad_reduce:
        group.grad_reduce_handle = _CompletedWork()


class _CompletedWork:
    """In place of the handle of a collective under way."""

    def wait(self) -> None:
        """Returns at once."""


def _gather_nothing(force_sync: bool = False) -> None:
    """In place of gathering the weights, all of which this rank has."""


# ---- the optimizer -------------------------------------------------------------------------------------


def chained(optimizer: MegatronOptimizer) -> list[OptimizerPart]:
    """The optimizers that megatron has chained: the dense parameters', and that of experts held on some ranks only."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def update_one_tensor_at_a_time(optimizer: MegatronOptimizer) -> None:
    """Make each torch AdamW inside megatron's optimizer loop over its tensors.

    Without Transformer Engine or apex, megatron takes torch's AdamW. Its default on an accelerator (`foreach`) updates
    all tensors at once, with temporaries as large as all of this rank's fp32 weights. A loop's are as large as one
    tensor. The maths is the same. MindSpeed's AdamW is another class and stays as it is. megatron-core 0.12, 0.16,
    0.19, torch 2.7 to 2.13; all devices.
    """
    for part in chained(optimizer):
        if type(part.optimizer) is torch.optim.AdamW:
            for settings in (part.optimizer.defaults, *part.optimizer.param_groups):
                settings["foreach"] = False


@cpu_only
def skip_unread_work(optimizer: MegatronOptimizer) -> None:
    """Count no zeros, and gather the weights once a step.

    A chain of megatron-core 0.12 counts the gradients' zeros whatever `log_num_zeros_in_grad` says, with an all-reduce
    of the whole job. And each part of it, when done, has the whole model gathered: the last part's is enough. Not so
    under MindSpeed, where each part has its own kind of weights gathered, and without this one the dense weights never
    are. megatron-core 0.12, 0.16, 0.19; CPU only.
    """
    cast(_CountsZeros, optimizer).count_zeros = _no_count
    for part in chained(optimizer)[:-1]:
        part.model_chunks = []  # without megatron's FSDP, read for that gathering only


class _CountsZeros(Protocol):
    count_zeros: Callable[[], None]


def _no_count() -> None:
    """In place of the number of zeros."""


@cpu_only
def use_fused_adamw(optimizer: MegatronOptimizer) -> bool:
    """Make each torch AdamW inside megatron's optimizer update its parameters in one pass; only before the first step.

    Without Transformer Engine or apex, megatron takes torch's AdamW, whose default on a CPU is a dozen operators for
    each parameter. The fused kernel rounds differently in the last bit. It is left out where it cannot be used; the
    answer is whether it is used throughout. megatron-core 0.12, 0.16, 0.19, torch 2.7 to 2.13;
    CPU only.
    """
    inner = [part.optimizer for part in chained(optimizer)]
    can_fuse = [_can_fuse(each) for each in inner]
    for each, can in zip(inner, can_fuse, strict=True):
        if can:
            for settings in (each.defaults, *each.param_groups):
                settings |= {"fused": True, "foreach": False}
    return all(can_fuse)


def _can_fuse(optimizer: torch.optim.Optimizer) -> bool:
    """Is it torch's AdamW over float32 tensors, with no state that another kernel has made?"""
    if type(optimizer) is not torch.optim.AdamW or optimizer.state:
        return False
    return all(each.dtype == torch.float32 for group in optimizer.param_groups for each in group["params"])


@cpu_only
def clip_inside_fused_adamw(optimizer: MegatronOptimizer, clip_grad: float) -> None:
    """Make `optimizer.step` clip the gradients inside the fused kernel, not in two passes before it.

    For optimizers that `use_fused_adamw` has changed throughout. megatron-core 0.12, 0.16, 0.19, torch 2.7 to 2.13;
    CPU only.
    """
    optimizer.step = functools.partial(_clip_and_step, optimizer, clip_grad)  # type: ignore[method-assign]


def _clip_and_step(optimizer: MegatronOptimizer, clip_grad: float) -> StepOutcome:
    """megatron's step of a chain, but for the clipping.

    The kernel divides by a scale where megatron multiplies by its inverse, so clipped steps differ by rounding; both
    leave the gradients clipped.
    """
    if optimizer.prepare_grads():
        return False, None, None
    grad_norm = optimizer.get_grad_norm()
    excess = (grad_norm + 1e-6) / clip_grad if clip_grad else 0.0
    scale = torch.tensor(excess, dtype=torch.float32) if excess > 1.0 else None
    for part in chained(optimizer):
        # torch.amp.GradScaler hands the kernel its scale in the same way
        part.optimizer.grad_scale = scale  # type: ignore[attr-defined]
    return bool(optimizer.step_with_ready_grads()), grad_norm, None

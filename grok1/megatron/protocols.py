"""What we use of megatron-core's objects, as types: none of its lines has any that a type checker can use.

Declarations only, and no torch at run time. Each names the attributes and methods that we read, call or set, not all
that megatron has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.nn import Module
else:
    Module = object

StateDict = dict[str, Any]  # megatron's: tensors, shards of tensors and plain values, nested
GroupSettings = dict[str, Any]  # one of an optimizer's param_groups: "params", "lr", "weight_decay", ...
StepOutcome = tuple[bool, float | None, int | None]  # (updated?, gradient norm, gradients that are zero)


class MegatronOptimizer(Protocol):
    """What `get_megatron_optimizer` returns: several optimizers chained, or the only one."""

    @property
    def param_groups(self) -> list[GroupSettings]:
        """torch's parameter groups, of all chained optimizers."""
        ...

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss times the loss scale, which is 1 without fp16."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the model's and of the optimizer's parameters."""
        ...

    def step(self) -> StepOutcome:
        """Clip, update this rank's shards, gather the weights."""
        ...

    def prepare_grads(self) -> bool:
        """Copy the model's gradients to the optimizer's; whether one is infinite."""
        ...

    def get_grad_norm(self) -> float:
        """The 2-norm of all gradients of the job."""
        ...

    def step_with_ready_grads(self) -> bool:
        """Update and gather, with gradients as `prepare_grads` left them."""
        ...

    def reload_model_params(self) -> None:
        """Take the model's weights for the optimizer's."""
        ...

    def sharded_state_dict(
        self, model_sharded_state_dict: StateDict, is_loading: bool = False, **options: object
    ) -> StateDict:
        """The optimizer's state, as dist_checkpointing takes it; a line's module gives its options."""
        ...

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore what `sharded_state_dict` gave."""
        ...


class OptimizerPart(MegatronOptimizer, Protocol):
    """One of the chained optimizers: the dense parameters', or that of experts held on some ranks only."""

    optimizer: torch.optim.Optimizer
    model_chunks: list[DdpModel]

    def get_parameters(self) -> list[torch.nn.Parameter]:
        """This rank's shards."""
        ...


class Scheduler(Protocol):
    """OptimizerParamScheduler: learning rate and weight decay by step."""

    def step(self, increment: int) -> None:
        """Go on by that many steps."""
        ...

    def state_dict(self) -> StateDict:
        """Where it stands."""
        ...

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on from there."""
        ...


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> object:
        """Until it is done."""
        ...


class DdpConfig(Protocol):
    """DistributedDataParallelConfig."""

    overlap_grad_reduce: bool
    overlap_param_gather: bool


class Bucket(Protocol):
    """A stretch of a gradient buffer that is reduced at once."""

    grad_data: Tensor
    gradient_scaling_factor: float


class BucketGroup(Protocol):
    """Buckets whose collectives are issued together."""

    buckets: list[Bucket]
    ddp_config: DdpConfig
    intra_distributed_optimizer_instance_size: int
    grad_reduce_handle: Handle | None
    start_grad_sync: Callable[..., None]
    start_param_sync: Callable[..., None]
    finish_param_sync: Callable[..., None]


class GradientBuffer(Protocol):
    """All gradients of one dtype and one data-parallel group, in one tensor."""

    data_parallel_group: ProcessGroup
    buckets: list[Bucket]


class DdpModel(Module):
    """DistributedDataParallel: a module, and what megatron adds. A declaration: nothing is an instance of it."""

    module: Module
    ddp_config: DdpConfig
    buffers: list[GradientBuffer]  # type: ignore[assignment]  # megatron hides torch's method of that name
    expert_parallel_buffers: list[GradientBuffer]
    bucket_groups: list[BucketGroup]
    expert_parallel_bucket_groups: list[BucketGroup]
    param_to_bucket_group: dict[Tensor, BucketGroup]
    zero_grad_buffer: Callable[[], None]
    start_param_sync: Callable[..., None]
    no_sync: Callable[[], AbstractContextManager[None]]


class Timer(Protocol):
    """One of megatron's timers."""

    def start(self, barrier: bool = False) -> None:
        """From here."""
        ...

    def stop(self, barrier: bool = False) -> None:
        """To here."""
        ...


class Timers(Protocol):
    """What megatron's schedules ask for a timer by its name."""

    def __call__(self, name: str, log_level: int | None = None) -> Timer: ...


class ModelConfig(Protocol):
    """TransformerConfig, as far as megatron's schedules read it: what a step hangs into the engine."""

    timers: Timers | None
    grad_scale_func: Callable[[Tensor], Tensor] | None
    finalize_model_grads_func: Callable[..., None] | None
    no_sync_func: Callable[[], AbstractContextManager[None]] | list[Callable[[], AbstractContextManager[None]]] | None
    sequence_parallel: bool


class ForwardBackward(Protocol):
    """The schedule that `get_forward_backward_func` picks: all micro-batches of a step, forward and backward."""

    def __call__(
        self,
        *,
        forward_step_func: Callable[..., tuple[Tensor, Callable[..., tuple[Tensor, dict[str, Tensor]]]]],
        data_iterator: list[Iterator[Mapping[str, Tensor]]],
        model: list[Module],
        num_microbatches: int,
        seq_length: int,
        micro_batch_size: int,
        forward_only: bool,
    ) -> list[dict[str, Tensor]]:
        """What the last stage's loss function returned beside the loss, by micro-batch; empty on other stages."""
        ...


class InferenceContext(Protocol):
    """StaticInferenceContext: the key/value cache, and how far it is filled."""

    sequence_len_offset: int
    materialize_only_last_token_logits: bool


class Router(Protocol):
    """A layer's router."""

    layer_number: int  # counted from 1

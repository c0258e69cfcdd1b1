"""megatron's dense linear layers: products by grok1.kernels.gemm, weights' gradients added to `main_grad` at once.

Parameters, shards and collectives are megatron's: only what its layers call to multiply differs. As there, backward
gathers a sequence-parallel input again while the input's gradient is computed, and reduces that while the weight's is.

Legend: S sequence (this rank's part of it where sequence-parallel), B micro-batch, K inputs, N outputs of this rank,
P = S x B positions of the whole sequence.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.sections import Kernels
from grok1.device.gloo import Handle
from grok1.distributed.groups import gathering_buffer, tensor_group
from grok1.kernels.context import Context
from grok1.kernels.gemm import WeightGradients, matmul
from grok1.megatron.door import ColumnParallelLinear, RowParallelLinear


class _Fused:
    """megatron's layers set what they call to multiply whenever they run; here that is always ours."""

    @property
    def _forward_impl(self) -> Callable[..., Tensor]:
        return _linear

    @_forward_impl.setter
    def _forward_impl(self, _megatrons: object) -> None: ...


class FusedColumnLinear(_Fused, ColumnParallelLinear):
    """Split by outputs."""


class FusedRowLinear(_Fused, RowParallelLinear):
    """Split by inputs."""


def plain_layers() -> tuple[type, type]:
    """megatron's own (split by outputs, split by inputs), also where MindSpeed's MC2 layers are in their place.

    For experts: MC2 gathers over the tensor ranks in every product, and the dispatcher has done that for an expert.
    MindSpeed means to leave experts out, but branch 26.0.0_core_r0.12.1 never reaches the code that does.
    """
    return _megatrons(ColumnParallelLinear), _megatrons(RowParallelLinear)


def _megatrons(layer: type) -> type:
    """megatron's class, of which MindSpeed's is a subclass that has taken its name.

    megatron's constructor asks for its class by that name (0.12), so where the name is taken, it gets a constructor of
    its own that finds megatron's.
    """
    original = next(
        (each for each in layer.__mro__ if each.__module__ == "megatron.core.tensor_parallel.layers"), layer
    )
    if original is layer:
        return layer
    made: types.FunctionType = vars(original)["__init__"]
    names = made.__globals__ | {original.__name__: original}
    constructor = types.FunctionType(made.__code__, names, made.__name__, made.__defaults__, made.__closure__)
    defaults = made.__kwdefaults__ or {}

    def construct(self: object, *args: object, **kwargs: object) -> None:
        constructor(self, *args, **{**defaults, **kwargs})

    return type(original.__name__, (original,), {"__init__": construct, "__module__": original.__module__})


def linear_layers(kernels: Kernels) -> tuple[type, type]:
    """(split by outputs, split by inputs). With mc2, MindSpeed has put its own in the place of megatron's."""
    if kernels.linear == "fused":
        return FusedColumnLinear, FusedRowLinear
    return ColumnParallelLinear, RowParallelLinear


def _linear(
    *,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    grad_output_buffer: object = None,
    **_unused: object,
) -> Tensor:
    """input [S, B, K] times weight [N, K] transposed; called as megatron's own is."""
    assert bias is None
    assert grad_output_buffer is None
    output: Tensor = _Linear.apply(input, weight, allreduce_dgrad, sequence_parallel)
    return output


class _Kept(Context, Protocol):
    weight: Tensor
    is_reduced: bool  # the input's gradient, over the tensor ranks
    is_gathered: bool  # the input, along the sequence
    input_shape: torch.Size


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Kept, input_SBK: Tensor, weight_NK: Tensor, is_reduced: bool, is_gathered: bool) -> Tensor:
        ctx.save_for_backward(input_SBK if ctx.needs_input_grad[1] else None)
        # not saved: where saved tensors have hooks, what comes back is another tensor, without its `main_grad`
        ctx.weight = weight_NK
        ctx.is_reduced, ctx.is_gathered, ctx.input_shape = is_reduced, is_gathered, input_SBK.shape
        whole_SBK, arrival = _gather(input_SBK) if is_gathered else (input_SBK, None)
        _wait(arrival)
        return matmul(_rows(whole_SBK), weight_NK.t()).view(*whole_SBK.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Kept, upstream_SBN: Tensor) -> tuple[Tensor | None, ...]:
        (whole_SBK,) = ctx.saved_tensors
        gradient = WeightGradients([ctx.weight], [ctx.needs_input_grad[1]])
        upstream_PN, arrival = _rows(upstream_SBN), None
        if whole_SBK is not None and ctx.is_gathered:
            whole_SBK, arrival = _gather(whole_SBK)
        d_input_PK = matmul(upstream_PN, ctx.weight)
        _wait(arrival)
        d_input_SBK, reduced = _reduce(d_input_PK, ctx)
        if whole_SBK is not None:
            gradient.add(0, upstream_PN, _rows(whole_SBK))
        _wait(reduced)
        return d_input_SBK, *gradient.returned, None, None


def _rows(tensor_SBK: Tensor) -> Tensor:
    """[P, K], contiguous."""
    return tensor_SBK.reshape(-1, tensor_SBK.shape[-1]).contiguous()


def _gather(input_SBK: Tensor) -> tuple[Tensor, Handle | None]:
    """Every tensor rank's part, in a shared buffer, and what to wait for."""
    group = tensor_group()
    shape = (input_SBK.shape[0] * group.size(), *input_SBK.shape[1:])
    whole = gathering_buffer(shape, input_SBK.dtype)
    return whole, dist.all_gather_into_tensor(whole, input_SBK.contiguous(), group=group, async_op=True)


def _reduce(d_input_PK: Tensor, ctx: _Kept) -> tuple[Tensor, Handle | None]:
    """The sum over tensor ranks, or this one's part of it, in the input's shape, and what to wait for."""
    group = tensor_group()
    if ctx.is_gathered:
        part_SBK = d_input_PK.new_empty(ctx.input_shape)
        whole_SBK = d_input_PK.view(-1, *ctx.input_shape[1:])
        return part_SBK, dist.reduce_scatter_tensor(part_SBK, whole_SBK, group=group, async_op=True)
    work = dist.all_reduce(d_input_PK, group=group, async_op=True) if ctx.is_reduced else None
    return d_input_PK.view(ctx.input_shape), work


def _wait(work: Handle | None) -> None:
    if work is not None:
        work.wait()

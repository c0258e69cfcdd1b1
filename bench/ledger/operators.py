"""Operators: which compute, which only move bytes, which are free, and what each costs in FLOPs and bytes.

Conventions. Matrix FLOPs: 2 a multiply-add; a causal attention counts half of the full matrix, its fused backward 2.5
times its forward (the scores are computed again); an attention with a cap states what its blocks multiply. Vector
FLOPs: one an element of the larger side. Bytes: each tensor that an operator reads or writes once, views free; a
lookup reads what it takes, not the table. An operator that is in no list is unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from grok1.device.operands import operands, tensors_in

_ATTENTION_MATRICES_FORWARD = 2  # q k^T and p v
_ATTENTION_MATRICES_BACKWARD = 5  # q k^T again, and one for each of dv, dp, dq, dk

# copies, allocations, lookups: bytes, no arithmetic
_MOVES = {
    "_pin_memory", "_to_copy", "alias", "arange", "bernoulli_", "cat", "clone", "constant_pad_nd", "copy_", "detach_",
    "embedding", "empty", "empty_like", "empty_strided", "expand_copy", "fill", "fill_", "flip", "full", "full_like",
    "gather", "index", "index_copy_", "index_put", "index_put_", "index_select", "is_pinned", "lift_fresh",
    "masked_fill", "masked_fill_", "masked_scatter", "masked_select", "new_empty", "new_empty_strided", "new_full",
    "new_ones", "new_zeros", "normal_", "one_hot", "ones", "ones_like", "permute_copy", "rand", "randint", "repeat",
    "repeat_interleave", "resize_", "roll", "scalar_tensor", "scatter", "scatter_", "select_backward", "set_",
    "slice_backward", "slice_scatter", "stack", "triu", "tril", "tril_", "triu_", "uniform_", "unfold_backward",
    "where", "zero", "zero_", "zeros", "zeros_like",
}  # fmt: skip
# arithmetic that torch does not tag as pointwise
_VECTOR = {
    "_fused_rms_norm", "_fused_rms_norm_backward", "_log_softmax", "_log_softmax_backward_data", "_softmax",
    "_softmax_backward_data", "all", "amax", "amin", "any", "argmax", "argsort", "bincount", "count_nonzero", "cumsum",
    "embedding_dense_backward", "gelu", "gelu_backward", "index_add", "index_add_", "index_reduce",
    "linalg_vector_norm", "logsumexp", "max", "mean", "min", "nonzero", "norm", "prod", "scatter_add", "scatter_add_",
    "sort", "sum", "topk", "var", "var_mean",
}  # fmt: skip
# questions of the host, and the two that make a scalar or a number of a tensor
FREE = {"_local_scalar_dense", "device", "is_same_size", "sym_size", "sym_numel", "sym_stride", "equal"}
NAMESPACES = {"aten", "prims", "grok1"}  # grok1: products of grok1.kernels.gemm, whichever library computes them
_LOOKUPS = {"embedding", "gather", "index", "index_select", "masked_select"}
# lists of tensors updated in place, nothing returned: which arguments are written; one FLOP an element of the first
_LIST_UPDATES = {"_fused_adamw_": (0, 2, 3, 4), "_foreach_add_": (0,)}
_GRADIENTS = 1  # which argument of _fused_adamw_ they are


def flops(
    func: Any, name: str, args: Any, kwargs: Any, inputs: list[Tensor], results: list[Tensor], out: Any
) -> tuple[int, int] | None:
    """(matrix FLOPs, vector FLOPs) of one call of an operator; None where no list knows it."""
    if name in _ATTENTION:
        return _ATTENTION[name](args, kwargs), 0
    formula = flop_registry.get(func._overloadpacket)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=out)), 0
    if name in _MOVES:
        return 0, 0
    if name in _LIST_UPDATES:
        return 0, sum(tensor.numel() for tensor in args[0])
    if torch.Tag.pointwise in func.tags or name in _VECTOR:
        return 0, max((tensor.numel() for tensor in [*inputs, *results]), default=0)
    return None


def written(name: str, args: Any, kwargs: Any, out: Any) -> Any:
    """What an operator writes: what it returns, or lists that it updates."""
    if name not in _LIST_UPDATES:
        return out
    clipped = [args[_GRADIENTS]] if kwargs.get("grad_scale") is not None else []  # scaled in place on the way
    return [*(args[index] for index in _LIST_UPDATES[name]), *clipped]


@dataclass(frozen=True)
class Kind:
    """What an operator is, whatever it is called with."""

    name: str
    is_counted: bool  # it is one of ours or torch's, not free, and does not say that its result is a view
    is_mutable: bool


@functools.cache
def kind_of(func: Any) -> Kind:
    """What this operator is."""
    name = func._schema.name.split("::")[1]
    is_counted = func.namespace in NAMESPACES and name not in FREE and not is_view(func)
    return Kind(name, is_counted, func._schema.is_mutable)


def is_view(func: Any) -> bool:
    """Whether the operator says that what it returns shares its input's storage."""
    return bool(func.is_view) or func._schema.name in ("aten::detach", "aten::_unsafe_view", "aten::_reshape_alias")


def touched(kind: Kind, args: Any, kwargs: Any, out: Any) -> tuple[list[Tensor], list[Tensor]] | None:
    """What a call of a counted operator read and what it wrote; None of a view that does not call itself one."""
    inputs, results = operands(args, kwargs), tensors_in((written(kind.name, args, kwargs, out),))
    return (inputs, results) if kind.is_mutable or makes_storage(inputs, results) else None


def makes_storage(inputs: list[Tensor], results: list[Tensor]) -> bool:
    """Whether a result lies in a storage that no input lies in."""
    known = {tensor.untyped_storage()._cdata for tensor in inputs}
    return any(result.untyped_storage()._cdata not in known for result in results)


def traffic(name: str, inputs: list[Tensor], results: list[Tensor]) -> tuple[int, int]:
    """(bytes read, bytes written) of one call."""
    written = sum(map(_bytes, results))
    if name in _LOOKUPS:
        return written + sum(_bytes(tensor) for tensor in inputs if not tensor.is_floating_point()), written
    return sum(map(_bytes, inputs)), written


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention_flops(matrices: int, first: int, causal_argument: int) -> Callable[[Any, Any], int]:
    """FLOPs of a fused attention whose query [B, H, S, D] and key [B, H, T, D] are arguments first and first + 1."""

    def flops(args: Any, kwargs: Any) -> int:
        query, key = args[first], args[first + 1]
        batch, heads, length, size = query.shape
        causal = kwargs.get("is_causal", args[causal_argument] if len(args) > causal_argument else False)
        full = 2 * matrices * batch * heads * length * key.shape[-2] * size
        return int(full // 2 if causal else full)

    return flops


_ATTENTION: dict[str, Callable[[Any, Any], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention_flops(_ATTENTION_MATRICES_FORWARD, 0, 4),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_flops(_ATTENTION_MATRICES_BACKWARD, 1, 7),
}

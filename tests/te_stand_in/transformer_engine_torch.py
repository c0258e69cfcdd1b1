"""A stand-in for Transformer Engine's compiled extension: plain torch on a CPU, of what this project's choices call.

A name that is absent here can be imported, and raises when it is called. Shapes and meanings are those of its own
callers (transformer_engine/pytorch, 2.9 to 2.11).
"""

import enum
import functools

import torch
from torch import Tensor

CALLS: set[str] = set()  # names of the functions below, and of Triton's kernels, that have run


def _noted(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        CALLS.add(function.__name__)
        return function(*args, **kwargs)

    return call


class DType(enum.Enum):
    kByte, kInt16, kInt32, kInt64, kFloat32, kFloat16, kBFloat16, kFloat8E4M3, kFloat8E5M2, kFloat4E2M1 = range(10)


_DTYPES = {DType.kFloat32: torch.float32, DType.kBFloat16: torch.bfloat16, DType.kFloat16: torch.float16}


class _Names:
    """An enumeration of C++, of which only the names matter."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{self._kind}.{name}"


for _kind in ("QKV_Layout", "QKV_Format", "Bias_Type", "Mask_Type", "Softmax_Type", "Fused_Attn_Backend"):
    globals()[f"NVTE_{_kind}"] = _Names(_kind)
for _kind in ("FP8FwdTensors", "FP8BwdTensors", "CommOverlapType", "Float8BlockScaleTensorFormat"):
    globals()[_kind] = _Names(_kind)


class CommOverlap: ...


class CommOverlapP2P: ...


class FP8TensorMeta: ...


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_args: object, **_kwargs: object) -> None:
        raise NotImplementedError(f"transformer_engine_torch.{name} has no stand-in")

    return absent


# ---- products ------------------------------------------------------------------------------------------


def _product(a: Tensor, is_a_transposed: bool, b: Tensor, is_b_transposed: bool) -> Tensor:
    """By rows, what cuBLAS computes by columns: op(b) op(a)."""
    return (b.t() if is_b_transposed else b) @ (a.t() if is_a_transposed else a)


@_noted
def te_general_grouped_gemm(
    a, transa, b, transb, out, out_dtype, m_splits, bias, bias_dtype, single_output, gelu_in, grad, workspaces,
    workspace_size, accumulate, use_split_accumulator, sm_count,
):  # fmt: skip
    """Write (or add) op(b[i]) op(a[i]) to out[i], or to its rows in out[0]."""
    assert not any(each.numel() for each in (*bias, *gelu_in)), "biases and GELU have no stand-in"
    assert (len(a), len(b)) == (len(m_splits),) * 2
    outputs = out[0].split(m_splits) if single_output else out
    for left, right, output in zip(b, a, outputs, strict=True):
        assert output.dtype == _DTYPES[out_dtype]
        product = _product(right, transa, left, transb)
        if accumulate:
            output += product
        else:
            output.copy_(product)
    return bias


@_noted
def generic_gemm(
    a, transa, b, transb, out, quantizer, out_dtype, bias, bias_dtype, gelu, gelu_in, grad, workspace, workspace_size,
    accumulate, use_split_accumulator, *, alpha=1.0, beta=None, **overlap,
):  # fmt: skip
    """op(b) op(a), accumulated in float32."""
    assert quantizer is None and bias is None and not gelu and alpha == 1.0 and not beta
    assert not any(overlap.values())
    dtype = b.dtype if out_dtype is None else _DTYPES[out_dtype]
    wide = torch.promote_types(dtype, torch.float32)
    product = _product(a.to(wide), transa, b.flatten(0, -2).to(wide), transb)
    product = product.view(*b.shape[:-1], -1) if not transb else product
    if out is None:
        return product.to(dtype), None, None, None
    out.add_(product) if accumulate else out.copy_(product)
    return out, None, None, None


def get_num_cublas_streams() -> int:
    """How many workspaces there are."""
    return 1


# ---- attention: no fused kernel here, so that Transformer Engine's own unfused code runs ------------------


def get_fused_attn_backend(*_args: object) -> str:
    """Which of cuDNN's kernels would do: none."""
    return "Fused_Attn_Backend.NVTE_No_Backend"


def get_cudnn_version() -> int:
    """9.5.0."""
    return 90500


@_noted
def scaled_upper_triang_masked_softmax_forward(scores_NST: Tensor, scale: float) -> Tensor:
    """Softmax of the scaled scores of the keys up to each query."""
    future = torch.ones(scores_NST.shape[-2:], dtype=torch.bool).triu(1)
    return (scores_NST.float() * scale).masked_fill(future, -torch.inf).softmax(-1).to(scores_NST.dtype)


@_noted
def scaled_upper_triang_masked_softmax_backward(slope_NST: Tensor, weights_NST: Tensor, scale: float) -> Tensor:
    """Its gradient."""
    slope, weights = slope_NST.float(), weights_NST.float()
    return (scale * weights * (slope - (slope * weights).sum(-1, keepdim=True))).to(slope_NST.dtype)


@_noted
def scaled_aligned_causal_masked_softmax_forward(scores: Tensor, scale: float) -> Tensor:
    """The same of [B, H, S, T]."""
    return scaled_upper_triang_masked_softmax_forward(scores, scale)


@_noted
def scaled_aligned_causal_masked_softmax_backward(slope: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Its gradient."""
    return scaled_upper_triang_masked_softmax_backward(slope, weights, scale)


# ---- the optimizer -------------------------------------------------------------------------------------


@_noted
def multi_tensor_adam(_chunk, _noop, lists, lr, beta1, beta2, epsilon, step, mode, is_corrected, decay) -> None:
    """Adam's step of (gradients, weights, first moments, second moments); mode 1 decouples the decay."""
    assert (mode, is_corrected) == (1, 1)
    for gradient, weight, first, second in zip(*lists, strict=True):
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (second / (1 - beta2**step)).sqrt().add_(epsilon)
        weight.sub_(first.div(1 - beta1**step).div_(spread).add_(weight, alpha=decay), alpha=lr)


@_noted
def multi_tensor_scale(_chunk, _noop, lists, scale) -> None:
    """targets = sources x scale."""
    for source, target in zip(*lists, strict=True):
        target.copy_(source * scale)


@_noted
def multi_tensor_l2norm(_chunk, _noop, lists, is_by_tensor=False):
    """The 2-norm of all, and of each."""
    norms = torch.stack([each.float().norm() for each in lists[0]])
    return norms.norm().view(1), norms if is_by_tensor else torch.empty(0)

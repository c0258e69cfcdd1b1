"""Matrix products of a CPU's float32 matrices by oneDNN where torch would use MKL and MKL is held back.

torch.mm calls MKL, which runs its AVX2 kernels on processors that are not Intel's; oneDNN asks the processor what it
has. Both are inside torch. On an AMD EPYC with AVX-512, one thread: MKL 100 GFLOP/s, oneDNN 160 to 230; held to
AVX2, oneDNN is still a tenth faster. Elsewhere, and for small products, a product here is torch's own.

Each product is an operator of its own (`grok1::matmul`, `grok1::addmm_`): what counts or profiles operators sees the
same one whichever library does the work.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import mm_flop, register_flop_formula

from grok1 import device

_FEWEST_MULTIPLY_ADDS = 1 << 24  # below, MKL is as fast, and oneDNN's compiled kernels take memory
_LIBRARY = torch.library.Library("grok1", "DEF")
_LIBRARY.define("matmul(Tensor left, Tensor right) -> Tensor")
_LIBRARY.define("addmm_(Tensor(a!) total, Tensor left, Tensor right) -> Tensor(a!)")


def matmul(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    """left @ right, [M, N]; no gradients."""
    if _is_ours(left_MK, right_KN):
        product_MN: Tensor = torch.ops.grok1.matmul(left_MK, right_KN)
        return product_MN
    return torch.mm(left_MK, right_KN)


def add_matmul(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> None:
    """total += left @ right, in place; the total may be of a wider dtype. No gradients."""
    if total_MN.dtype != left_MK.dtype:
        total_MN.add_(torch.mm(left_MK, right_KN))
    elif _is_ours(left_MK, right_KN):
        torch.ops.grok1.addmm_(total_MN, left_MK, right_KN)
    else:
        torch.addmm(total_MN, left_MK, right_KN, out=total_MN)


def _is_ours(left_MK: Tensor, right_KN: Tensor) -> bool:
    """By shapes alone, so that the same operators run on every machine and on tensors without data."""
    if left_MK.device.type != "cpu" or left_MK.dtype != torch.float32:
        return False
    return left_MK.numel() * right_KN.shape[1] >= _FEWEST_MULTIPLY_ADDS


@functools.cache
def _onednn() -> Any:
    """oneDNN's linear layer, x @ w^T, as torch's own compiler calls it; None where it is absent or no faster."""
    if not torch.backends.mkldnn.is_available() or "Intel" in device.describe().name:
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _matmul(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    linear = _onednn()
    if linear is None:
        return torch.mm(left_MK, right_KN)
    rows = left_MK.shape[0]
    padded = F.pad(left_MK, (0, 0, 0, _rounded(rows) - rows))
    product: Tensor = linear(padded, right_KN.t(), None, "none", [], "")
    return product[:rows]


def _addmm_(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> Tensor:
    linear = _onednn()
    if linear is None:
        return torch.addmm(total_MN, left_MK, right_KN, out=total_MN)
    missing = _rounded(right_KN.shape[0]) - right_KN.shape[0]
    left_KM, right_KN = (F.pad(rows, (0, 0, 0, missing)) for rows in (left_MK.t(), right_KN))
    return total_MN.add_(linear(left_KM.t(), right_KN.t(), None, "none", [], ""))


def _rounded(rows: int) -> int:
    """At most an eighth more rows, or 7: oneDNN compiles a kernel for each shape, in about a millisecond."""
    step = max(8, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


_LIBRARY.impl("matmul", _matmul, "CPU")
_LIBRARY.impl("addmm_", _addmm_, "CPU")


@torch.library.register_fake("grok1::matmul", lib=_LIBRARY)
def _fake_matmul(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    return left_MK.new_empty(left_MK.shape[0], right_KN.shape[1])


@torch.library.register_fake("grok1::addmm_", lib=_LIBRARY)
def _fake_addmm_(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> Tensor:
    return total_MN


@register_flop_formula(torch.ops.grok1.matmul)
def _matmul_flop(left: Any, right: Any, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return int(mm_flop(left, right))


@register_flop_formula(torch.ops.grok1.addmm_)
def _addmm_flop(total: Any, left: Any, right: Any, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return int(mm_flop(left, right))

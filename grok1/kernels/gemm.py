"""Matrix products of a CPU's float32 matrices by oneDNN and OpenBLAS where torch would use MKL and MKL is held back.

torch.mm calls MKL, which runs its AVX2 kernels on processors that are not Intel's; oneDNN, inside torch too, asks the
processor what it has. On an AMD EPYC with AVX-512, one thread: MKL 100 GFLOP/s, oneDNN 160 to 230; held to AVX2,
oneDNN is still a tenth faster. A product that is added to a total is scipy's OpenBLAS's, which reads transposes and
adds as it writes, where oneDNN wants copies and a sum: 210 to 230 GFLOP/s for oneDNN's 170 to 190, on AVX2 a tenth
faster too. Elsewhere, and for small products, a product here is torch's own.

Each product is an operator of its own (`grok1::matmul`, `grok1::addmm_`): what counts or profiles operators sees the
same one whichever library does the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import blas
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import mm_flop, register_flop_formula

from grok1.device import measuring
from grok1.megatron.instances import mark_gradient_added

# Below, MKL: oneDNN is twice as fast down to 2^21, but its kernels for more shapes take up to 33 MiB of a rank and time
# to compile, and OpenBLAS is slow where rows are few. Both were tried: grok1-small gains nothing, grok1-tiny 3 to 6 %.
_FEWEST_MULTIPLY_ADDS = 1 << 24
Sizes = tuple[int, int]  # of a matrix, as flop formulas get them
_LIBRARY = torch.library.Library("grok1", "DEF")
_LIBRARY.define("matmul(Tensor left, Tensor right) -> Tensor")
_LIBRARY.define("addmm_(Tensor(a!) total, Tensor left, Tensor right) -> Tensor(a!)")


def matmul(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    """left @ right, [M, N]; no gradients."""
    if _is_ours(left_MK.shape[0], right_KN):
        product_MN: Tensor = torch.ops.grok1.matmul(left_MK, right_KN)
        return product_MN
    if left_MK.shape[0] == 1:  # whose elements lie apart in a transposed matrix: torch 2.7.1 errs in bf16 on a CPU
        left_MK = left_MK.contiguous()
    return torch.mm(left_MK, right_KN)


def room_for_left(rows: int, right_KN: Tensor) -> Tensor | None:
    """[rows, K] to write a product's left side to, with room behind it that spares a copy; None where none is made."""
    return right_KN.new_empty((_rounded(rows), right_KN.shape[0]))[:rows] if _is_ours(rows, right_KN) else None


def add_matmul(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> None:
    """total += left @ right, in place; the total may be of a wider dtype. No gradients."""
    if total_MN.dtype != left_MK.dtype:
        total_MN.add_(torch.mm(left_MK, right_KN))
    elif _is_ours(left_MK.shape[0], right_KN):
        torch.ops.grok1.addmm_(total_MN, left_MK, right_KN)
    else:
        torch.addmm(total_MN, left_MK, right_KN, out=total_MN)


class WeightGradients:
    """Adds each weight's gradient to its `main_grad`, or where it has none returns it as autograd wants it.

    megatron's hook on a parameter adds what autograd returns, which is nothing then. Where gradients are reduced during
    the backward (`is_awaited`), the hook wants a tensor all the same, and a mark that says what it is worth.
    """

    def __init__(self, weights: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        pairs = list(zip(weights, wanted, strict=True))
        self.returned = [_returned(weight) if is_wanted else None for weight, is_wanted in pairs]
        self._totals = [
            getattr(weight, "main_grad", returned) if is_wanted else None
            for (weight, is_wanted), returned in zip(pairs, self.returned, strict=True)
        ]

    def add(self, index: int, upstream_pN: Tensor, inputs_pK: Tensor) -> None:
        """Add upstream^T inputs [N, K] to the gradient of the weight with that index."""
        total_NK = self._totals[index]
        if total_NK is not None:
            add_matmul(total_NK, upstream_pN.t(), inputs_pK)


def _returned(weight: Tensor) -> Tensor | None:
    if not hasattr(weight, "main_grad"):
        return torch.zeros_like(weight)
    if not getattr(weight, "is_awaited", False):
        return None
    mark_gradient_added(weight)
    # a weight that is also the embedding gets a part of its gradient from autograd, and the hook adds the sum
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)


def _is_ours(rows: int, right_KN: Tensor) -> bool:
    """By shapes alone, so that the same operators run on every machine and on tensors without data."""
    if right_KN.device.type != "cpu" or right_KN.dtype != torch.float32:
        return False
    return rows * right_KN.numel() >= _FEWEST_MULTIPLY_ADDS


@functools.cache
def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's linear layer, x @ w^T, as torch's own compiler calls it; None where it is absent or no faster."""
    if not torch.backends.mkldnn.is_available() or "Intel" in measuring.describe().name:
        return None
    linear: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return linear


def _matmul(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    linear = _onednn()
    if linear is None:
        return torch.mm(left_MK, right_KN)
    rows = left_MK.shape[0]
    product: Tensor = linear(_with_rows(left_MK, _rounded(rows)), right_KN.t(), None, "none", [], "")
    return product[:rows]


def _with_rows(matrix_MK: Tensor, rows: int) -> Tensor:
    """The matrix and what follows it in its storage, whatever that is: a row of a product is of one row alone.

    Where too little follows, a copy with zeros below.
    """
    own_rows, columns = matrix_MK.shape
    end = (matrix_MK.storage_offset() + rows * columns) * matrix_MK.element_size()
    if matrix_MK.is_contiguous() and end <= matrix_MK.untyped_storage().nbytes():
        return matrix_MK.as_strided((rows, columns), (columns, 1))
    return F.pad(matrix_MK, (0, 0, 0, rows - own_rows))


def _addmm_(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> Tensor:
    linear = _onednn()
    if linear is None:
        return torch.addmm(total_MN, left_MK, right_KN, out=total_MN)
    if measuring.is_openblas_as_wide():
        if total_MN.is_contiguous():  # BLAS stores by columns
            _add_by_openblas(total_MN.t(), right_KN.t(), left_MK.t())
            return total_MN
        if total_MN.t().is_contiguous():
            _add_by_openblas(total_MN, left_MK, right_KN)
            return total_MN
    missing = _rounded(right_KN.shape[0]) - right_KN.shape[0]
    left_KM, right_KN = (F.pad(rows, (0, 0, 0, missing)) for rows in (left_MK.t(), right_KN))
    return total_MN.add_(linear(left_KM.t(), right_KN.t(), None, "none", [], ""))


def _add_by_openblas(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> None:
    """Add to a total that is stored by columns."""
    (left, is_left_transposed), (right, is_right_transposed) = _by_columns(left_MK), _by_columns(right_KN)
    total = total_MN.numpy()
    written = blas.sgemm(
        1.0,
        left,
        right,
        beta=1.0,
        c=total,
        trans_a=is_left_transposed,
        trans_b=is_right_transposed,
        overwrite_c=True,
    )
    assert written.ctypes.data == total.ctypes.data  # else scipy made a copy


def _by_columns(matrix: Tensor) -> tuple[npt.NDArray[np.float32], bool]:
    """The matrix as BLAS reads it, and whether that is its transpose. What is stored neither way, scipy copies."""
    is_transposed = matrix.is_contiguous()
    array = matrix.numpy()
    return (array.T if is_transposed else array), is_transposed


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
def _matmul_flop(left: Sizes, right: Sizes, *_args: object, **_kwargs: object) -> int:
    return int(mm_flop(left, right))


@register_flop_formula(torch.ops.grok1.addmm_)
def _addmm_flop(_total: Sizes, left: Sizes, right: Sizes, *_args: object, **_kwargs: object) -> int:
    return int(mm_flop(left, right))

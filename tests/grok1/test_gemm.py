"""Products by whichever library is faster: torch.mm's numbers, from any strides, as operators of their own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from grok1 import device, gemm

SHAPES = [(16, 1024, 1024), (57, 384, 2048), (301, 512, 200), (1024, 64, 1024), (1, 8, 4), (0, 64, 64)]
LARGE = SHAPES[:4]


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both, wherever the tests run."""
    linear = torch.ops.mkldnn._linear_pointwise if request.param == "oneDNN" else None
    monkeypatch.setattr(gemm, "_onednn", lambda: linear)
    return str(request.param)


def _matrices(sizes: tuple[int, int, int], is_transposed: bool) -> tuple[Tensor, Tensor]:
    """[M, K] and [K, N] of M, K, N, stored by rows, or by columns."""
    rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    if is_transposed:
        return torch.randn(inner, rows, generator=generator).t(), torch.randn(columns, inner, generator=generator).t()
    return torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("sizes", SHAPES)
def test_a_product_is_torchs(sizes: tuple[int, int, int], is_transposed: bool) -> None:
    left, right = _matrices(sizes, is_transposed)
    exact = left.double() @ right.double()
    bound = 5e-6 * math.sqrt(sizes[1])
    product = gemm.matmul(left, right)
    assert product.shape == exact.shape
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=bound)
    total = torch.ones_like(product)
    gemm.add_matmul(total, left, right)
    torch.testing.assert_close(total.double(), exact + 1, rtol=0, atol=bound)


@pytest.mark.usefixtures("library")
def test_a_part_of_a_matrix_is_multiplied_alone() -> None:
    left, right = _matrices((200, 512, 512), False)
    assert torch.equal(
        gemm.matmul(left[50:150, :256], right[:256]), gemm.matmul(left[50:150, :256].clone(), right[:256])
    )


def test_a_wider_total_takes_a_narrower_product() -> None:
    left, right = (matrix.bfloat16() for matrix in _matrices((64, 512, 1024), False))
    total = torch.zeros(64, 1024)
    gemm.add_matmul(total, left, right)
    assert torch.equal(total, (left @ right).float())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("is_fake", [False, True], ids=["real", "without data"])
@pytest.mark.parametrize("sizes", LARGE)
def test_what_counts_operators_sees_one_whichever_library_works(sizes: tuple[int, int, int], is_fake: bool) -> None:
    left, right = _matrices(sizes, False)
    if is_fake:
        mode = FakeTensorMode()
        left, right = mode.from_tensor(left), mode.from_tensor(right)
    with FlopCounterMode(display=False) as counter:
        total = gemm.matmul(left, right)
        gemm.add_matmul(total, left, right)
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.grok1.matmul: 2 * math.prod(sizes),
        torch.ops.grok1.addmm_: 2 * math.prod(sizes),
    }


def test_rows_are_rounded_up_to_few_sizes() -> None:
    rounded = {rows: gemm._rounded(rows) for rows in range(1, 4097)}
    assert all(rows <= more <= max(rows * 1.125, rows + 7) for rows, more in rounded.items())
    assert len(set(rounded.values())) < 64


def test_mkl_is_left_in_place_on_intels_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, is_onednn in [("Intel(R) Xeon(R) Platinum", False), ("AMD EPYC", True)]:
        described = device.Description("cpu", name, None, None, None)
        monkeypatch.setattr(device, "describe", lambda described=described: described)
        gemm._onednn.cache_clear()
        assert (gemm._onednn() is not None) == (is_onednn and torch.backends.mkldnn.is_available())
    gemm._onednn.cache_clear()

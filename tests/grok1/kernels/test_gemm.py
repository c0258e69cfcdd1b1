"""Products by whichever library is faster: torch.mm's numbers, from any strides, as operators of their own."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from grok1.device import measuring
from grok1.kernels import gemm

SHAPES = [(16, 1024, 1024), (57, 384, 2048), (301, 512, 200), (1024, 64, 1024), (1, 8, 4), (0, 64, 64)]
LARGE = SHAPES[:4]


@pytest.fixture(params=["MKL", "oneDNN", "OpenBLAS"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each, wherever the tests run; OpenBLAS beside oneDNN."""
    linear = None if request.param == "MKL" else torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(gemm, "_onednn", lambda: linear)
    monkeypatch.setattr(measuring, "is_openblas_as_wide", lambda: request.param == "OpenBLAS")
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


def _by_rows(matrix: Tensor) -> Tensor:
    return matrix.clone(memory_format=torch.contiguous_format)


STORED = {
    "by rows": _by_rows,
    "by columns": lambda matrix: _by_rows(matrix.t()).t(),
    "rows of a wider one": lambda matrix: F.pad(matrix, (3, 5))[:, 3:-5],
    "columns of a longer one": lambda matrix: F.pad(matrix.t(), (3, 5))[:, 3:-5].t(),
    "every other element": lambda matrix: matrix.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
    "one row for all": lambda matrix: matrix[:1].expand_as(matrix),
    "in a graph": lambda matrix: _by_rows(matrix).requires_grad_(),
}
QUICK = ("by rows", "by columns")
WAYS = [pytest.param(way, marks=() if way in QUICK else pytest.mark.slow) for way in STORED]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("right_way", WAYS)
@pytest.mark.parametrize("left_way", WAYS)
@pytest.mark.parametrize("total_way", ["by rows", "by columns", "rows of a wider one", "every other element"])
def test_what_is_added_does_not_depend_on_how_matrices_are_stored(
    total_way: str, left_way: str, right_way: str
) -> None:
    left, right = _matrices((96, 300, 640), False)
    left, right = STORED[left_way](left), STORED[right_way](right)
    before = torch.randn(96, 640, generator=torch.Generator().manual_seed(0))
    total = STORED[total_way](before)
    address = total.data_ptr()
    with torch.no_grad():
        gemm.add_matmul(total, left, right)
    exact = before.double() + left.detach().double() @ right.detach().double()
    torch.testing.assert_close(total.double(), exact, rtol=0, atol=1e-4)
    assert total.data_ptr() == address


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("right_way", WAYS)
@pytest.mark.parametrize("left_way", WAYS)
def test_a_product_does_not_depend_on_how_matrices_are_stored(left_way: str, right_way: str) -> None:
    sizes = (96, 300, 640)
    left, right = (STORED[way](each) for way, each in zip((left_way, right_way), _matrices(sizes, False), strict=True))
    with torch.no_grad():
        product = gemm.matmul(left, right)
    exact = left.detach().double() @ right.detach().double()
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=1e-4)
    assert product.is_contiguous()


def test_openblas_writes_where_the_total_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a part of a buffer, as a parameter's `main_grad` is, and nowhere else in it."""
    monkeypatch.setattr(gemm, "_onednn", lambda: torch.ops.mkldnn._linear_pointwise)
    monkeypatch.setattr(measuring, "is_openblas_as_wide", lambda: True)
    left, right = _matrices((256, 64, 1024), False)
    buffer = torch.zeros(7 + 256 * 1024 + 9)
    gemm.add_matmul(buffer[7:-9].view(256, 1024), left, right)
    torch.testing.assert_close(buffer[7:-9].view(256, 1024), left @ right, rtol=0, atol=1e-4)
    assert not buffer[:7].any()
    assert not buffer[-9:].any()


@pytest.mark.parametrize(
    ("told", "capability", "is_wide"),
    [
        (None, "AVX512", True),
        ("", "AVX512", True),
        ("SkylakeX", "AVX512", True),
        ("Haswell", "AVX512", False),
        ("Haswell", "AVX2", True),
    ],
)
def test_openblas_told_to_use_less_than_the_processor_has_is_left_alone(
    told: str | None, capability: str, is_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if told is not None:
        monkeypatch.setenv("OPENBLAS_CORETYPE", told)
    measuring.is_openblas_as_wide.cache_clear()
    assert measuring.is_openblas_as_wide() == is_wide
    measuring.is_openblas_as_wide.cache_clear()


@pytest.mark.parametrize(("allowed", "started"), [("1", False), ("2", True)])
def test_openblas_takes_as_many_threads_as_a_rank_may(allowed: str, started: bool) -> None:
    """OMP_NUM_THREADS, which grok1.distributed.launch sets, bounds them."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    threads = subprocess.run(
        [sys.executable, "-c", "import psutil, scipy.linalg.blas; print(psutil.Process().num_threads())"],
        env=environment | {"OMP_NUM_THREADS": allowed},
        capture_output=True,
        check=True,
    ).stdout
    assert (int(threads) > 1) == (started and os.cpu_count() != 1)


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


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("before", [0, 16])
def test_rows_that_follow_in_memory_take_no_part_in_a_product(before: int) -> None:
    """oneDNN is given more rows than there are: what lies behind may be anything, and is not written."""
    left, right = _matrices((57, 512, 1024), False)
    whole = torch.full((before + 80, 512), math.nan)
    rows = whole[before : before + 57]
    rows.copy_(left)
    kept = whole.clone()
    torch.testing.assert_close(gemm.matmul(rows, right), gemm.matmul(left, right), rtol=0, atol=1e-4)
    torch.testing.assert_close(whole, kept, rtol=0, atol=0, equal_nan=True)


def test_rows_are_added_without_a_copy_where_memory_follows() -> None:
    left, right = _matrices((57, 512, 1024), False)
    room = gemm.room_for_left(57, right)
    assert room is not None
    assert room.shape == left.shape
    assert gemm._with_rows(room, gemm._rounded(57)).data_ptr() == room.data_ptr()
    assert gemm._with_rows(left[:50], 57).data_ptr() == left.data_ptr()
    copied = gemm._with_rows(left, 60)
    assert copied.shape == (60, 512)
    assert torch.equal(copied[:57], left)
    assert not copied[57:].any()
    assert torch.equal(gemm._with_rows(left.t()[:50], 57)[:50], left.t()[:50])  # stored by columns: nothing follows
    assert gemm.room_for_left(1, right[:4]) is None  # which torch multiplies
    assert gemm.room_for_left(57, right.bfloat16()) is None


def test_mkl_is_left_in_place_on_intels_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, is_onednn in [("Intel(R) Xeon(R) Platinum", False), ("AMD EPYC", True)]:
        described = measuring.Description("cpu", name, None, None, None)
        monkeypatch.setattr(measuring, "describe", lambda described=described: described)
        gemm._onednn.cache_clear()
        assert (gemm._onednn() is not None) == (is_onednn and torch.backends.mkldnn.is_available())
    gemm._onednn.cache_clear()

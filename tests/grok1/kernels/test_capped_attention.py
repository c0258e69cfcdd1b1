"""Blockwise capped attention beside the plain one: every output and gradient, without a T x T matrix.

Legend: S sequence of queries, T of keys, B micro-batch, H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from grok1.kernels import capped_attention as module
from grok1.kernels.capped_attention import BLOCK, OPERATORS, capped_attention

MULTIPLIER = 0.4
# S, T, B, H, G, D
SHAPES = [
    (1, 1, 1, 1, 1, 4),
    (1, 9, 2, 4, 2, 8),
    (BLOCK, BLOCK, 1, 2, 2, 8),
    (2 * BLOCK, 2 * BLOCK, 2, 4, 2, 8),
    (2 * BLOCK + 7, 2 * BLOCK + 7, 2, 6, 2, 16),
    (BLOCK + 3, 3 * BLOCK + 1, 3, 4, 1, 8),
    (5, 2 * BLOCK, 1, 3, 3, 8),
]
Shape = tuple[int, int, int, int, int, int]
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=["one head at once", "all heads at once"])
def heads_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on an accelerator."""
    if request.param == "all heads at once":
        monkeypatch.setattr(module, "_heads_at_once", lambda query_NRD: query_NRD.shape[0])


def _inputs(shape: Shape, dtype: torch.dtype, scale: float = 3.0) -> Inputs:
    queries, keys, batch, heads, groups, size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (queries, batch, heads, size), (keys, batch, groups, size), (keys, batch, groups, size)
    query, key, value = (scale * torch.randn(each, generator=generator, dtype=torch.float64) for each in sizes)
    return tuple(each.to(dtype).requires_grad_() for each in (query, key, value))  # type: ignore[return-value]


def _plain(query_SBHD: Tensor, key_TBGD: Tensor, value_TBGD: Tensor, multiplier: float, cap: float) -> Tensor:
    """[S, B, H, D], by the definition."""
    queries, keys, group = len(query_SBHD), len(key_TBGD), query_SBHD.shape[2] // key_TBGD.shape[2]
    key, value = (heads.repeat_interleave(group, dim=2) for heads in (key_TBGD, value_TBGD))
    scores = cap * torch.tanh(torch.einsum("sbhd,tbhd->bhst", query_SBHD, key) * multiplier / cap)
    future = torch.arange(keys) > torch.arange(keys - queries, keys)[:, None]
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("bhst,tbhd->sbhd", weights, value)


def _outputs(function: Any, inputs: tuple[Tensor, ...], cap: float) -> list[Tensor]:
    """The context, and the gradients of query, key and value."""
    context = function(*inputs, MULTIPLIER, cap)
    slope = torch.randn(context.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [context.detach(), *torch.autograd.grad(context, inputs, slope.to(context.dtype))]


def _errors(ours: list[Tensor], theirs: list[Tensor]) -> list[float]:
    """The largest error over the largest value; shapes must be alike."""
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    scales = [max(float(each.double().abs().max()), 1.0) for each in theirs]
    errors = [float((one.double() - other.double()).abs().max()) for one, other in zip(ours, theirs, strict=True)]
    return [error / scale for error, scale in zip(errors, scales, strict=True)]


@pytest.mark.usefixtures("heads_at_once")
@pytest.mark.parametrize("cap", [3.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-5), (torch.bfloat16, 0.05)])
def test_outputs_and_gradients_are_the_plain_ones(shape: Shape, cap: float, dtype: torch.dtype, bound: float) -> None:
    inputs = _inputs(shape, dtype, scale=1.0 if dtype == torch.bfloat16 else 3.0)
    exact = tuple(each.detach().double().requires_grad_() for each in inputs)
    ours = _outputs(capped_attention, inputs, cap)
    assert all(each.dtype == dtype for each in ours)
    assert max(_errors(ours, _outputs(_plain, exact, cap))) <= bound


def test_in_float32_it_is_as_exact_as_the_plain_one() -> None:
    """Within a few times, at xAI's cap: the sigmoid's rounding is at c, tanh's at the score."""
    shape = (2 * BLOCK, 2 * BLOCK, 1, 4, 2, 64)
    exact = _outputs(_plain, _inputs(shape, torch.float64), 30.0)
    ours, plain = (_outputs(function, _inputs(shape, torch.float32), 30.0) for function in (capped_attention, _plain))
    assert max(_errors(ours, exact)) <= 4 * max(_errors(plain, exact))


def test_gradients_are_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    inputs = _inputs((3, 5, 2, 4, 2, 3), torch.float64, scale=1.0)
    assert torch.autograd.gradcheck(lambda q, k, v: capped_attention(q, k, v, MULTIPLIER, 1.5), inputs)


def test_a_second_derivative_is_refused() -> None:
    query, key, value = _inputs(SHAPES[1], torch.float64)
    context = capped_attention(query, key, value, MULTIPLIER, 30.0)
    (slope,) = torch.autograd.grad(context.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_recomputed_and_without_gradients_it_is_the_same() -> None:
    inputs = _inputs(SHAPES[4], torch.float32)

    def recomputed(*arguments: Any) -> Tensor:
        context: Tensor = checkpoint(capped_attention, *arguments, use_reentrant=False)
        return context

    expected = _outputs(capped_attention, inputs, 30.0)
    assert all(map(torch.equal, _outputs(recomputed, inputs, 30.0), expected))
    with torch.no_grad():
        assert torch.equal(capped_attention(*inputs, MULTIPLIER, 30.0), expected[0])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_without_data_have_its_shapes(device: str) -> None:
    real = _inputs(SHAPES[4], torch.float32)
    with FakeTensorMode():
        query, key, value = (torch.empty(each.shape, device=device, requires_grad=True) for each in real)
        inputs = query, key, value
        context = capped_attention(*inputs, MULTIPLIER, 30.0)
        assert context.shape == inputs[0].shape
        gradients = torch.autograd.grad(context, inputs, torch.empty_like(context))
        assert [each.shape for each in gradients] == [each.shape for each in inputs]


class _Inside(TorchDispatchMode):
    """Sees the operators that ours run, in their place."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "grok1":
            return self.see(func(*args, **(kwargs or {})))
        with self:
            return OPERATORS[func._opname](*args)

    def see(self, output: Any) -> Any:
        return output


class _Largest(_Inside):
    """The most elements of any operator's output."""

    elements = 0

    def see(self, output: Any) -> Any:
        sizes = (leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        self.elements = max(self.elements, *sizes, 0)
        return output


@pytest.mark.usefixtures("heads_at_once")
def test_no_matrix_of_all_scores_is_made() -> None:
    length, batch, heads = 4 * BLOCK, 2, 4
    inputs = _inputs((length, length, batch, heads, 2, 8), torch.float32)
    with _Largest() as largest:
        _outputs(capped_attention, inputs, 30.0)
    assert 0 < largest.elements <= batch * heads * BLOCK * length


@pytest.mark.parametrize(("device", "heads_at_once"), [("cpu", 1), ("meta", 2 * 3)])
def test_on_a_cpu_a_block_is_of_one_head_and_elsewhere_of_all(device: str, heads_at_once: int) -> None:
    """Heads of keys and values, each of which two heads of queries read, in every sequence of a micro-batch."""
    length, batch, groups, group = 2 * BLOCK, 2, 3, 2
    inputs = _inputs((length, length, batch, group * groups, groups, 8), torch.float32)
    query, key, value = (each.detach().to(device) for each in inputs)
    with _Largest() as largest:
        capped_attention(query, key, value, MULTIPLIER, 30.0)
    block = BLOCK if device == "cpu" else length
    assert largest.elements == heads_at_once * group * block * length


def test_only_the_inputs_are_kept() -> None:
    """Query, key and value, as many elements as they have, however long the sequence."""
    inputs = _inputs(SHAPES[3], torch.float32)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        capped_attention(*inputs, MULTIPLIER, 30.0)
    assert sum(kept) == sum(each.numel() for each in inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"], ids=["block", "longer block"])
def test_its_flops_are_those_of_its_products(shape: Shape, device: str) -> None:
    query, key, value = (each.detach().to(device).requires_grad_() for each in _inputs(shape, torch.float32))

    def count() -> int:
        with FlopCounterMode(display=False) as counter:
            context = capped_attention(query, key, value, MULTIPLIER, 30.0)
            torch.autograd.grad(context, (query, key, value), torch.empty_like(context))
        return int(counter.get_total_flops())

    stated = count()
    with _Inside():
        assert count() == stated > 0

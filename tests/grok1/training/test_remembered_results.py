"""A result that is remembered is the one that FakeTensorMode computes, in shape, strides, memory and identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from grok1.training.remembered_results import RememberedResults


class _Remembering(TorchDispatchMode):
    """Counts the calls that FakeTensorMode does not see."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode, self.results, self.computed = mode, RememberedResults(mode), 0

    def __torch_dispatch__(self, func: OpOverload, types: object, args: Any = (), kwargs: Any = None) -> object:
        def compute(*args: Any, **kwargs: Any) -> object:
            self.computed += 1
            return func(*args, **kwargs)

        if func is torch.ops.prim.device.default:
            return func(*args)
        return self.results.call(_Named(func, compute), args, kwargs or {})  # type: ignore[arg-type]  # has what is asked of it


class _Named:
    """An operator that tells when it is called, and is equal to itself."""

    def __init__(self, func: OpOverload, compute: Callable[..., object]) -> None:
        self._func, self._schema, self._compute = func, func._schema, compute

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        return self._compute(*args, **kwargs)

    def __hash__(self) -> int:
        return hash(self._func)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and other._func is self._func


@contextmanager
def remembering() -> Iterator[_Remembering]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _Remembering(mode) as remembered:
        yield remembered


def looks(tensor: Tensor, *known: Tensor) -> tuple[object, ...]:
    """All that is to be seen of a tensor without data, and in which known tensors' memory it lies."""
    storage = tensor.untyped_storage()
    shares = [storage._cdata == each.untyped_storage()._cdata for each in known]
    is_same = [tensor is each for each in known]
    return (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device, storage.nbytes()), (
        shares,
        is_same,
    )


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "new": lambda a, b: a + b,
    "promoted": lambda a, b: a.double() + b,
    "by an int": lambda a, b: a * 2,
    "by a float": lambda a, b: a * 2.0,
    "in place": lambda a, b: a.add_(b),
    "out": lambda a, b: torch.mul(a, b, out=b),
    "out in the middle": lambda a, b: torch.mul(a[1:3], b[1:3], out=b[1:3]),
    "product": lambda a, b: a @ b.t(),
    "view": lambda a, b: a.view(-1),
    "transposed": lambda a, b: a.t(),
    "a part": lambda a, b: a[1:3, 2:],
    "parts": lambda a, b: a.split([1, 3]),
    "joined": lambda a, b: torch.cat([a, b, a]),
    "sums": lambda a, b: a.sum(dim=0, keepdim=True),
    "two results": lambda a, b: a.max(dim=1),
    "detached": lambda a, b: a.detach(),
    "empty": lambda a, b: torch.empty(3, 4, dtype=torch.bfloat16),
    "strided": lambda a, b: torch.empty_strided((2, 3), (1, 2)),
    "looked up": lambda a, b: a[torch.tensor([0, 1, 1])],
    "list in place": lambda a, b: torch._foreach_add_([a, b], 1.0),
    "none of it": lambda a, b: a[:0] + 1,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_second_call_gives_what_the_first_gave(call: str) -> None:
    seen: list[object] = []
    for is_second in (False, True):
        with remembering() as remembered:
            for _ in range(1 + is_second):
                a, b = torch.empty(4, 6), torch.empty(4, 6)
                before = remembered.computed
                out = CALLS[call](a, b)
                computed = remembered.computed - before
            out = out if isinstance(out, tuple | list) else [out]
            seen.append([looks(each, a, b) if each is not None else None for each in out])
            assert len({each.untyped_storage()._cdata for each in out if each is not None}) <= len(out)
    assert seen[0] == seen[1]
    assert computed == 0, "the second call was not computed again"


def test_arguments_that_only_look_equal_are_other_calls() -> None:
    with remembering():
        whole = torch.empty(4, 6)
        assert (whole > 0).dtype == torch.bool
        assert [torch.full((2,), each).dtype for each in (1, 1.0, True)] == [torch.int64, torch.float32, torch.bool]
        assert torch.mul(whole, whole, out=whole) is whole
        first, second = torch.empty(4, 6), torch.empty(4, 6)
        assert torch.mul(first, second, out=second) is second
        assert torch.mul(first, second, out=first) is first
        assert (whole.double() + whole).dtype == torch.float64
        assert (whole + whole).dtype == torch.float32
        assert whole.t().sum(0, keepdim=True).shape == (1, 4)
        assert whole.sum(0, keepdim=True).shape == (1, 6)


def test_a_call_that_changes_a_shape_is_not_remembered() -> None:
    with remembering() as remembered:
        for _ in range(3):
            before, tensor = remembered.computed, torch.empty(4, 6)
            before = remembered.computed
            tensor.resize_(2, 2)
            assert tensor.shape == (2, 2)
            assert remembered.computed > before


def test_a_remembered_result_is_as_torch_makes_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    # by default torch warns of the first access in a process alone
    monkeypatch.setattr("torch._functorch.config.fake_tensor_allow_unsafe_data_ptr_access", False)
    made = []
    for is_second in (False, True):
        with remembering() as remembered:
            a, b = torch.empty(4, 6), torch.empty(4, 6)
            for _ in range(1 + 2 * is_second):  # the first that is remembered is made by torch's constructor
                before, result = remembered.computed, a + b
            assert remembered.computed == before + (not is_second)
        assert type(result) is FakeTensor
        assert result.fake_mode is remembered.mode
        with pytest.raises(RuntimeError, match="data pointer"):
            result.data_ptr()
        held = {name: value for name, value in vars(result).items() if name != "fake_mode"}
        made.append((held, str(torch._C._dispatch_keys(result)), result.requires_grad, result.is_leaf, result._version))
    assert made[0] == made[1]


def test_each_result_has_memory_of_its_own() -> None:
    with remembering():
        a, b = torch.empty(4, 6), torch.empty(4, 6)
        results = [a + b for _ in range(3)]
        assert len({each.untyped_storage()._cdata for each in results}) == 3


_SIZES = some.lists(some.integers(1, 4), min_size=1, max_size=3)


@given(_SIZES, some.lists(some.sampled_from(["t", "half", "part", "flat", "add", "joined"]), max_size=6))
def test_any_chain_of_calls_ends_as_without(sizes: list[int], steps: list[str]) -> None:
    chain: dict[str, Callable[[Tensor], Tensor]] = {
        "t": lambda x: x.transpose(0, -1),
        "half": lambda x: x.bfloat16(),
        "part": lambda x: x[1:] if x.shape[0] > 1 else x,
        "flat": lambda x: x.reshape(-1),
        "add": lambda x: x + x,
        "joined": lambda x: torch.cat([x, x]),
    }

    def last(start: Tensor) -> tuple[object, ...]:
        tensor = start
        for step in steps:
            tensor = chain[step](tensor)
        return looks(tensor, start)

    with FakeTensorMode():
        expected = last(torch.empty(sizes))
    with remembering():
        assert [last(torch.empty(sizes)) for _ in range(2)] == [expected] * 2

"""What operators return on tensors without data, remembered by what they were called with.

torch's FakeTensorMode works each result out anew, or looks it up by sixteen properties of each argument; that took most
of the time of a step without data. A step calls the same operators with the same shapes for each layer and micro-batch.
Here the first call goes to FakeTensorMode, and says what the result is: an argument, new memory, or a view of the one
tensor among the arguments. Later calls with equal arguments get the same, made anew. What is none of the three, and
what changes an argument's shape, is not remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from grok1.device.fake_tensors import FakeTensors

_PLAIN = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
)  # what a call may hold beside tensors, and lists of all these

_Key = tuple[Any, ...]
_Tensors = dict[int, tuple[int, Tensor]]  # by identity: (number among the call's tensors, tensor)


@dataclass(frozen=True)
class _Made:
    """A tensor to be made: in new memory, or in that of the call's first tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    is_view: bool

    @staticmethod
    def like(tensor: Tensor, is_view: bool) -> _Made:
        """As a tensor that was returned."""
        shape, stride, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        return _Made(shape, stride, offset, tensor.dtype, tensor.device, is_view)


_Part = _Made | int | None  # an int: the argument of that number among the call's tensors


@dataclass(frozen=True)
class _Answer:
    """What a call returns: one part, or several in a list or tuple."""

    parts: tuple[_Part, ...]
    container: Callable[[list[Any]], Any] | None


class RememberedResults:
    """Results of operators on the tensors of one FakeTensorMode."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._fake = FakeTensors(mode)
        self._answers: dict[_Key, _Answer | None] = {}

    def call(self, func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> object:
        """What `func` returns under FakeTensorMode."""
        tensors: _Tensors = {}
        key = _described(func, args, kwargs, tensors)
        if key is None:
            return func(*args, **kwargs)
        answer = self._answers.get(key)
        if answer is not None:
            return self._made(answer, tensors)
        out = func(*args, **kwargs)
        if key not in self._answers:
            is_as_it_was = _described(func, args, kwargs, {}) == key
            self._answers[key] = _answer(func, out, tensors) if is_as_it_was else None
        return out

    def _made(self, answer: _Answer, tensors: _Tensors) -> object:
        arguments = [tensor for _, tensor in tensors.values()]
        with torch._C._DisableTorchDispatch():
            made = [
                self._tensor(part, arguments) if isinstance(part, _Made) else None if part is None else arguments[part]
                for part in answer.parts
            ]
        return made[0] if answer.container is None else answer.container(made)

    def _tensor(self, part: _Made, arguments: list[Tensor]) -> FakeTensor:
        if part.is_view:
            bare = torch.empty_strided((0,), (1,), dtype=part.dtype, device="meta")
            bare.set_(arguments[0].untyped_storage(), part.offset, part.shape, part.stride)
        else:
            bare = torch.empty_strided(part.shape, part.stride, dtype=part.dtype, device="meta")
        return self._fake.make(bare, part.device)


def _described(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], tensors: _Tensors) -> _Key | None:
    """A call as a key, its tensors put in `tensors`; None where it holds what no key says whole."""
    key: list[Any] = [func, *kwargs]
    is_whole = _describe(args, key, tensors) and (not kwargs or _describe(kwargs.values(), key, tensors))
    return tuple(key) if is_whole else None


def _describe(values: Iterable[Any], key: list[Any], tensors: _Tensors) -> bool:
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            key += (kind, value)  # 1, 1.0 and True are equal
        elif isinstance(value, FakeTensor):
            if value.constant is not None:
                return False
            _describe_tensor(value, value.fake_device, key, tensors)
        elif isinstance(value, Tensor):
            _describe_tensor(value, None, key, tensors)
        elif kind is list or kind is tuple:
            key += (kind, len(value))
            if not _describe(value, key, tensors):
                return False
        else:
            return False
    return True


def _describe_tensor(tensor: Tensor, fake_device: torch.device | None, key: list[Any], tensors: _Tensors) -> None:
    """All that a result's shape can follow from, and whether the same tensor came before."""
    number, _ = tensors.setdefault(id(tensor), (len(tensors), tensor))
    key += (number, fake_device, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())


def _answer(func: OpOverload, out: Any, tensors: _Tensors) -> _Answer | None:
    """What is remembered of a call that returned `out`; None: nothing."""
    container = type(out) if isinstance(out, list | tuple) else None
    results: Sequence[Any] = (out,) if container is None else out
    new = [each for each in results if each is not None and id(each) not in tensors]
    if not all(map(_is_plain, new)):
        return None
    arguments = {tensor.untyped_storage()._cdata for _, tensor in tensors.values()}
    are_views = [each.untyped_storage()._cdata in arguments for each in new]
    # of a real argument FakeTensorMode makes a fake one, which is what it changes or views
    if (func._schema.is_mutable or any(are_views)) and not _are_fake(tensors):
        return None
    if any(are_views) and len(tensors) > 1:
        return None
    own = [each for each, is_view in zip(new, are_views, strict=True) if not is_view]
    if not all(map(_fills_its_storage, own)) or len({each.untyped_storage()._cdata for each in own}) < len(own):
        return None
    made = iter([_Made.like(each, is_view) for each, is_view in zip(new, are_views, strict=True)])
    parts = (None if each is None else tensors[id(each)][0] if id(each) in tensors else next(made) for each in results)
    return _Answer(tuple(parts), container)


def _are_fake(tensors: _Tensors) -> bool:
    return all(isinstance(tensor, FakeTensor) for _, tensor in tensors.values())


def _is_plain(value: object) -> bool:
    """A fake tensor that is its shape and type alone."""
    return (
        isinstance(value, FakeTensor)
        and value.constant is None
        and value.layout is torch.strided
        and not (value.requires_grad or value.is_conj() or value.is_neg())
    )


def _fills_its_storage(tensor: Tensor) -> bool:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    num_bytes = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == num_bytes

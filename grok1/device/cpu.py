"""Makes torch.cuda mean the CPU, for a megatron-core that is written for CUDA.

All patches of this file are of torch, for megatron-core 0.12, 0.16 and 0.19 with torch 2.7 to 2.13, and are applied on
a CPU only; `use_cpu` lists them. tests/grok1/device/test_seam.py fails when one is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import ParamSpec

import numpy
import torch
import torch.distributed as dist
from torch import Tensor

from grok1.device import gloo, shared_memory

P = ParamSpec("P")


class _Event:
    """Stands for a CUDA event: what it waits for is done."""

    def synchronize(self) -> None: ...


class _Stream:
    """Stands for a CUDA stream: a CPU has one, and it is always done."""

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def wait_stream(self, _other: object) -> None: ...

    def wait_event(self, _event: object) -> None: ...

    def record_event(self, _event: object = None) -> _Event:
        return _Event()

    def synchronize(self) -> None: ...


_CPU = torch.device("cpu")
_THE_STREAM = _Stream()


@contextlib.contextmanager
def _stream_context(_stream: object) -> Iterator[None]:
    yield


# torch.cuda names that megatron-core calls without asking whether there is a GPU
_CPU_CUDA_NAMES: dict[str, object] = {
    "current_device": lambda: _CPU,
    "synchronize": lambda *_: None,
    "set_device": lambda *_: None,
    "Stream": _Stream,
    "current_stream": lambda *_: _THE_STREAM,
    "default_stream": lambda *_: _THE_STREAM,
    "stream": _stream_context,
    "manual_seed": torch.manual_seed,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda state, *_: torch.set_rng_state(state),
}

# factories that megatron-core calls with device="cuda"
_CPU_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "empty_like", "zeros_like")


def use_cpu() -> None:
    """Apply every patch of this file, once a process."""
    _answer_for_cuda()
    _make_tensors_on_the_cpu()
    _stay_on_the_cpu()
    _name_types_as_cuda()
    _pad_uneven_collectives()
    _take_numpy_split_sizes()
    _exchange_directly()
    _share_memory()


def _answer_for_cuda() -> None:
    """torch.cuda's names above: megatron asks for streams, generators and the current device."""
    for name, value in _CPU_CUDA_NAMES.items():
        setattr(torch.cuda, name, value)


def _make_tensors_on_the_cpu() -> None:
    """torch.zeros and the like: device="cuda" means the CPU, and no memory is pinned (a split sequence's positions)."""
    for name in _CPU_FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _on_cpu(factory: Callable[P, Tensor]) -> Callable[P, Tensor]:
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    call.__name__ = factory.__name__
    call.__wrapped__ = factory  # type: ignore[attr-defined]
    return call


def _stay_on_the_cpu() -> None:
    """Tensor.cuda and Module.cuda mean "move to the device", where it already is (schedules, ddp)."""
    torch.Tensor.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]


def _name_types_as_cuda() -> None:
    """Tensor.type(): the distributed optimizer sorts parameters by 'torch.cuda.FloatTensor' and the like."""
    original: Callable[..., str | Tensor] = torch.Tensor.type

    def type_name(self: Tensor, *args: object, **kwargs: object) -> str | Tensor:
        result = original(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.", 1) if isinstance(result, str) else result

    torch.Tensor.type = type_name  # type: ignore[method-assign,assignment]


def _pad_uneven_collectives() -> None:
    """dist.all_gather and reduce_scatter: gloo refuses uneven lists, which split experts need. Pad, call, cut."""
    gather: Callable[..., dist.Work | None] = dist.all_gather
    scatter = _scatter_or_exchange(dist.reduce_scatter)

    def all_gather(outputs: list[Tensor], tensor: Tensor, *args: object, **kwargs: object) -> dist.Work | None:
        longest = max(output.shape[0] for output in outputs)
        if all(output.shape[0] == longest for output in outputs):
            return gather(outputs, tensor, *args, **kwargs)
        padded = [tensor.new_empty((longest, *tensor.shape[1:])) for _ in outputs]
        work = gather(padded, _padded(tensor, longest), *args, **kwargs)
        for output, whole in zip(outputs, padded, strict=True):
            output.copy_(whole[: output.shape[0]])
        return work

    def reduce_scatter(output: Tensor, inputs: list[Tensor], *args: object, **kwargs: object) -> dist.Work | None:
        longest = max(part.shape[0] for part in inputs)
        if all(part.shape[0] == longest for part in inputs):
            return scatter(output, inputs, *args, **kwargs)
        padded = output.new_empty((longest, *output.shape[1:]))
        work = scatter(padded, [_padded(part, longest) for part in inputs], *args, **kwargs)
        output.copy_(padded[: output.shape[0]])
        return work

    for replacement in (all_gather, reduce_scatter):
        setattr(dist, replacement.__name__, replacement)


def _scatter_or_exchange(scatter: Callable[..., dist.Work | None]) -> Callable[..., dist.Work | None]:
    """dist.reduce_scatter of equal parts: torch 2.7's gloo has none of lists, so there it is one tensor's."""
    exchange: Callable[..., dist.Work | None] = dist.reduce_scatter_tensor  # as it is now, before calls are counted

    def call(output: Tensor, inputs: list[Tensor], *args: object, **kwargs: object) -> dist.Work | None:
        try:
            return scatter(output, inputs, *args, **kwargs)
        except RuntimeError as error:
            if "does not support reduce_scatter" not in str(error):
                raise
        return exchange(output, torch.cat(inputs), *args, **kwargs)

    return call


def _padded(tensor: Tensor, length: int) -> Tensor:
    """`tensor` with zero rows appended up to `length` rows."""
    result = tensor.new_zeros((length, *tensor.shape[1:]))
    result[: tensor.shape[0]] = tensor
    return result


def _take_numpy_split_sizes() -> None:
    """dist.all_to_all_single: megatron hands numpy's split sizes on, gloo wants lists of ints."""
    exchange: Callable[..., dist.Work | None] = dist.all_to_all_single

    def all_to_all_single(*args: object, **kwargs: object) -> dist.Work | None:
        for key in ("output_split_sizes", "input_split_sizes"):
            sizes = kwargs.get(key)
            if isinstance(sizes, numpy.ndarray):
                kwargs[key] = sizes.tolist()
        return exchange(*args, **kwargs)

    dist.all_to_all_single = all_to_all_single


def _exchange_directly() -> None:
    """dist.reduce_scatter_tensor, all_gather_into_tensor, all_reduce: see grok1.device.gloo."""
    for collective in gloo.direct_collectives():
        setattr(dist, collective.__name__, collective)


def _share_memory() -> None:
    """The same, dist.all_to_all_single and what coalesces, among ranks of one machine: grok1.device.shared_memory."""
    for collective in shared_memory.shared_collectives():
        setattr(dist, collective.__name__, collective)

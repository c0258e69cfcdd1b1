"""Makes torch.cuda mean the CPU, for a megatron-core that is written for CUDA.

Each patch says what, why and for which version; tests/grok1/device/test_seam.py fails when one is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
import torch.distributed as dist

from grok1.device import gloo


class _Stream:
    """Stands for a CUDA stream: a CPU has one, and it is always done."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def wait_stream(self, _other: Any) -> None: ...

    def wait_event(self, _event: Any) -> None: ...

    def synchronize(self) -> None: ...


_CPU = torch.device("cpu")
_THE_STREAM = _Stream()


@contextlib.contextmanager
def _stream_context(_stream: Any) -> Iterator[None]:
    yield


# torch.cuda names that megatron-core 0.12 calls without asking whether there is a GPU
_CPU_CUDA_NAMES: dict[str, Any] = {
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

# factories that megatron-core 0.12 calls with device="cuda"
_CPU_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "empty_like", "zeros_like")


def use_cpu() -> None:
    for name, value in _CPU_CUDA_NAMES.items():
        setattr(torch.cuda, name, value)
    for name in _CPU_FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    # Tensor.cuda / Module.cuda: "move to the device", where it already is (schedules, ddp)
    torch.Tensor.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    _name_types_as_cuda()
    _adapt_collectives_to_gloo()


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    call.__name__ = factory.__name__
    call.__wrapped__ = factory  # type: ignore[attr-defined]
    return call


def _name_types_as_cuda() -> None:
    """Tensor.type(): the distributed optimizer of 0.12 sorts parameters by 'torch.cuda.FloatTensor' and the like."""
    original = torch.Tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.", 1) if isinstance(result, str) else result

    torch.Tensor.type = type_name  # type: ignore[method-assign,assignment]


def _adapt_collectives_to_gloo() -> None:
    """gloo refuses uneven all_gather and reduce_scatter lists, which split experts need: pad, call, cut (2.13)."""
    gather, scatter = dist.all_gather, dist.reduce_scatter

    def all_gather(outputs: list[torch.Tensor], tensor: torch.Tensor, **kwargs: Any) -> Any:
        longest = max(output.shape[0] for output in outputs)
        if all(output.shape[0] == longest for output in outputs):
            return gather(outputs, tensor, **kwargs)
        padded = [tensor.new_empty((longest, *tensor.shape[1:])) for _ in outputs]
        work = gather(padded, _padded(tensor, longest), **kwargs)
        for output, whole in zip(outputs, padded, strict=True):
            output.copy_(whole[: output.shape[0]])
        return work

    def reduce_scatter(output: torch.Tensor, inputs: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        longest = max(part.shape[0] for part in inputs)
        if all(part.shape[0] == longest for part in inputs):
            return scatter(output, inputs, *args, **kwargs)
        padded = output.new_empty((longest, *output.shape[1:]))
        work = scatter(padded, [_padded(part, longest) for part in inputs], *args, **kwargs)
        output.copy_(padded[: output.shape[0]])
        return work

    exchange = dist.all_to_all_single

    def all_to_all_single(*args: Any, **kwargs: Any) -> Any:
        # megatron 0.12 hands numpy split sizes on, gloo wants lists of ints
        for key in ("output_split_sizes", "input_split_sizes"):
            if isinstance(kwargs.get(key), numpy.ndarray):
                kwargs[key] = kwargs[key].tolist()
        return exchange(*args, **kwargs)

    for replacement in (all_gather, reduce_scatter, all_to_all_single, *gloo.directly(dist)):
        setattr(dist, replacement.__name__, replacement)


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """`tensor` with zero rows appended up to `length` rows."""
    result = tensor.new_zeros((length, *tensor.shape[1:]))
    result[: tensor.shape[0]] = tensor
    return result

"""Stands for torch_npu.contrib.transfer_to_npu: torch.cuda means torch.npu, and both are the CPU.

It patches what the real one patches (its white lists are copied by name), warns as it warns, and sets the warnings
filter that it sets. Where the real one writes "npu" for "cuda", this one writes "cpu".
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

import torch_npu

warnings.filterwarnings(action="once")

_FUNCTIONS = (
    "logspace", "randint", "hann_window", "rand", "full_like", "ones_like", "rand_like", "randperm", "arange",
    "frombuffer", "normal", "empty_strided", "empty_like", "scalar_tensor", "tril_indices", "ones", "randn", "tensor",
    "triu_indices", "as_tensor", "zeros", "randint_like", "full", "eye", "empty", "zeros_like", "range", "randn_like",
    "linspace", "load", "set_default_device",
)  # fmt: skip
_TENSOR_METHODS = (
    "new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros", "to", "pin_memory",
)  # fmt: skip
_MODULE_METHODS = ("to", "to_empty")
_KEYWORDS = ("device", "device_type", "map_location", "device_id")


def _on_the_cpu(value: object, replace_int: bool = False) -> object:
    if isinstance(value, str) and value.split(":")[0] in ("cuda", "npu"):
        return "cpu"
    if isinstance(value, torch.device) and value.type in ("cuda", "npu"):
        return torch.device("cpu")
    return "cpu" if replace_int and isinstance(value, int) and not isinstance(value, bool) else value


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    replace_int = function.__name__ in ("to", "to_empty")

    @wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        for name in _KEYWORDS:
            if name in kwargs:
                kwargs[name] = _on_the_cpu(kwargs[name], replace_int=True)
        kwargs.pop("pin_memory", None)  # pages stay where they are: without a device's allocator torch pins none
        return function(*(_on_the_cpu(each, replace_int) for each in args), **kwargs)

    return call


def _wrap(owner: object, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(owner, name, _moved(getattr(owner, name)))


def _apply(source: types.ModuleType, target: object) -> None:
    """torch_npu/utils/_module.py, _apply_module_patch."""
    for name in dir(source):
        if not name.startswith("__"):
            setattr(target, name, getattr(source, name))


def _over_hccl(function: Callable[..., Any]) -> Callable[..., Any]:
    def named(value: object) -> object:
        return value.replace("nccl", "hccl") if isinstance(value, str) else value

    @wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        if "backend" in kwargs:
            kwargs["backend"] = named(kwargs["backend"])
        return function(*map(named, args), **kwargs)

    return call


def _stay(self: Any, *_args: object, **_kwargs: object) -> Any:
    return self


def _init() -> None:
    warnings.warn("The torch.Tensor.cuda and torch.nn.Module.cuda are replaced", ImportWarning, stacklevel=3)
    _apply(torch_npu.npu, torch.cuda)
    _apply(torch_npu.npu.random, torch.cuda.random)
    _wrap(torch, _FUNCTIONS)
    _wrap(torch.Tensor, _TENSOR_METHODS)
    _wrap(torch.nn.Module, _MODULE_METHODS)
    for owner in (torch.Tensor, torch.nn.Module):
        owner.npu = owner.cuda = _stay
    torch.Tensor.record_stream = lambda self, stream: None
    torch.Tensor.is_npu = torch.Tensor.is_cuda = property(lambda self: True)
    torch.Tensor.type = _type_of_npu(torch.Tensor.type)
    for name in ("profile", "schedule", "tensorboard_trace_handler", "ProfilerAction"):
        setattr(torch.profiler, name, getattr(torch_npu.profiler, name))
    torch.distributed.init_process_group = _over_hccl(torch.distributed.init_process_group)
    torch.distributed.is_nccl_available = torch.distributed.is_hccl_available
    torch.distributed.distributed_c10d._new_group_with_tag = _over_hccl(
        torch.distributed.distributed_c10d._new_group_with_tag
    )
    torch.distributed.ProcessGroupNCCL = torch.distributed.distributed_c10d.ProcessGroupNCCL = (
        torch_npu.hccl.ProcessGroupHCCL
    )
    torch.cuda.CUDAGraph = torch.npu.NPUGraph
    torch.cuda.DoubleTensor = torch.npu.FloatTensor
    warnings.warn("torch.jit.script and torch.jit.script_method will be disabled", RuntimeWarning, stacklevel=3)
    torch.jit.script = _unscripted


def _unscripted(obj: Any, *_args: object, **_kwargs: object) -> Any:
    return obj


def _type_of_npu(original: Callable[..., Any]) -> Callable[..., Any]:
    """A tensor on an NPU says torch.npu.FloatTensor."""

    @wraps(original)
    def call(self: torch.Tensor, *args: object, **kwargs: object) -> Any:
        said = original(self, *args, **kwargs)
        return said.replace("torch.", "torch.npu.", 1) if isinstance(said, str) else said

    return call


_init()

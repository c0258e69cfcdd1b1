"""What torch's dispatcher hands a mode, taken apart at little cost: a step on tensors without data does little else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

_DEVICE = torch.ops.prim.device.default


def tensors_in(values: Iterable[object]) -> list[Tensor]:
    """The tensors among an operator's arguments or results, lists opened."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def operands(args: Sequence[object], kwargs: Mapping[str, object]) -> list[Tensor]:
    """The tensors that an operator was called with."""
    return tensors_in((*args, *kwargs.values())) if kwargs else tensors_in(args)


def device_asked_for(func: OpOverload, args: Sequence[Any]) -> torch.device | None:
    """The answer where a fake tensor is asked for its device, as most calls do; None where something else is called."""
    if func is not _DEVICE or not isinstance(args[0], FakeTensor):
        return None
    tensor = args[0]
    return torch.device("meta") if tensor.fake_mode.in_kernel_invocation else tensor.fake_device

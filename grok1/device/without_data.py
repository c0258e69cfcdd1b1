"""What a step on tensors without data needs of torch: a process group of one, and no reading of values."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist


def init_fake_process_group(rank: int, world_size: int) -> None:
    """Join a job whose other ranks do not exist: every collective returns at once."""
    fake: Any = importlib.import_module("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake.FakeStore(), rank=rank, world_size=world_size)


HOST_READS = 2.0  # what the host reads where there is no data


def _without_tensors(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_without_tensors(each) for each in data]
    return HOST_READS if isinstance(data, torch.Tensor) and data.is_floating_point() else data


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """What torch 2.13's fake tensors cannot do and a training step does; put back at the end."""
    tensor, bfloat16 = torch.tensor, torch.nn.Module.bfloat16

    def unread(data: Any, *args: Any, **kwargs: Any) -> Any:
        """torch.tensor of (lists of) tensors reads their values; megatron's gradient norm calls it so (0.12)."""
        return tensor(_without_tensors(data), *args, **kwargs)

    def already_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
        """Module.bfloat16 swaps a fake parameter for its copy, which weak references forbid; ours need no copy."""
        others = {str(each.dtype) for each in module.parameters()} - {"torch.bfloat16"}
        assert not others, f"parameters of {others} would have to be converted"
        return module

    torch.tensor, torch.nn.Module.bfloat16 = unread, already_bfloat16  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.tensor, torch.nn.Module.bfloat16 = tensor, bfloat16  # type: ignore[method-assign]

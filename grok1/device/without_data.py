"""What a step on tensors without data needs of torch: a process group of one, and no reading of values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist


def init_fake_process_group(rank: int, world_size: int) -> None:
    """Join a job whose other ranks do not exist: every collective returns at once."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend; only dry runs need it

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


HOST_READS = 2.0  # what the host reads where there is no data


def _without_tensors(data: object) -> object:
    if isinstance(data, list | tuple):
        return [_without_tensors(each) for each in data]
    return HOST_READS if isinstance(data, torch.Tensor) and data.is_floating_point() else data


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """Three patches for torch's fake tensors, on any device, for as long as a dry run lasts. torch 2.13.

    `torch.tensor` of (lists of) tensors reads their values, and megatron-core 0.12's gradient norm calls it so: here
    each is HOST_READS. `Module.bfloat16` replaces a fake parameter by its copy, which weak references forbid: here it
    leaves a model alone that is in bfloat16 already. `dist.all_gather_object` makes tensors of what it sends, and reads
    theirs: here every rank says what this one says (megatron-core from 0.16 on compares the optimizer's groups so).
    """
    tensor: Callable[..., torch.Tensor] = torch.tensor
    bfloat16 = torch.nn.Module.bfloat16

    def unread(data: object, *args: object, **kwargs: object) -> torch.Tensor:
        return tensor(_without_tensors(data), *args, **kwargs)

    def already_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
        others = {str(each.dtype) for each in module.parameters()} - {"torch.bfloat16"}
        assert not others, f"parameters of {others} would have to be converted"
        return module

    torch.tensor, torch.nn.Module.bfloat16 = unread, already_bfloat16  # type: ignore[method-assign,assignment]
    gather_objects, dist.all_gather_object = dist.all_gather_object, _hear_oneself
    try:
        yield
    finally:
        torch.tensor, torch.nn.Module.bfloat16 = tensor, bfloat16  # type: ignore[method-assign]
        dist.all_gather_object = gather_objects


def _hear_oneself(object_list: list[object], obj: object, group: dist.ProcessGroup | None = None) -> None:
    """all_gather_object where every rank says the same."""
    object_list[:] = [obj] * len(object_list)

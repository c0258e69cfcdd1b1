"""What a step without the others, or without data, needs of torch: a process group of one, and no reading of values."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from grok1.device.kind import device_kind


def init_fake_process_group(rank: int, world_size: int) -> None:
    """Join a job whose other ranks do not exist: every collective returns at once."""
    from torch.testing._internal.distributed import fake_pg  # registers the backend; only dry runs need it

    backend = _fake_of_npus(fake_pg) if device_kind() == "npu" else "fake"
    dist.init_process_group(backend, store=fake_pg.FakeStore(), rank=rank, world_size=world_size)


def _fake_of_npus(fake_pg: Any) -> str:
    """torch's fake group under another name: of NPUs too, which it does not list, and without HCCL's options, which
    MindSpeed gives each group."""
    if not hasattr(dist.Backend, "FAKE_OF_NPUS"):
        takes_four = len(inspect.signature(fake_pg._create_fake_pg).parameters) == 4  # torch 2.7.1

        def made(common: Any, _options: object) -> Any:
            if takes_four:
                return fake_pg._create_fake_pg(common.store, common.group_rank, common.group_size, common.timeout)
            return fake_pg._create_fake_pg(common, None)

        dist.Backend.register_backend(
            "fake_of_npus",
            made,
            extended_api=True,
            devices=["cpu", torch._C._get_privateuse1_backend_name()],  # "npu", once torch_npu is imported
        )
    return "fake_of_npus"


@dataclass
class Transfers:
    """Sends and receives of a rank without the others, by operation: (calls, bytes)."""

    counted: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, operation: str, tensor: torch.Tensor) -> None:
        calls, num_bytes = self.counted.get(operation, (0, 0))
        self.counted[operation] = calls + 1, num_bytes + tensor.numel() * tensor.element_size()


@contextlib.contextmanager
def noise_received() -> Iterator[Transfers]:
    """Let receives bring noise, and count them and sends. torch 2.7 to 2.13, any device, inside the fake process group.

    That group leaves what it should receive uninitialised; before torch 2.13 what it scatters and exchanges too, which
    here is of what the rank holds, as it is there. Sooner or later a number that nobody wrote is not finite, then all
    are; and a device that multiplies such numbers draws less power, so that its clock and speed are not the job's.
    """
    transfers, noise = Transfers(), dict[tuple[torch.Size, torch.dtype], torch.Tensor]()
    originals = {name: getattr(dist, name) for name in ("isend", "irecv")}

    def send(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        transfers.add("send", tensor)
        return originals["isend"](tensor, *args, **kwargs)

    def receive(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        transfers.add("receive", tensor)
        if tensor.is_floating_point():
            kind = tensor.shape, tensor.dtype
            if kind not in noise:
                noise[kind] = torch.randn_like(tensor) * _NOISE
            with torch.no_grad():
                tensor.copy_(noise[kind])
        return originals["irecv"](tensor, *args, **kwargs)

    _replace_transfers(send, receive)
    try:
        with contextlib.nullcontext() if _fake_group_copies() else own_share_received():
            yield transfers
    finally:
        _replace_transfers(originals["isend"], originals["irecv"])


def _fake_group_copies() -> bool:
    """Whether torch's fake group writes a rank's own share where the sum of all would stand."""
    everyone: Any = dist.group.WORLD
    received = torch.zeros(1)
    everyone._reduce_scatter_base(received, torch.ones(everyone.size())).wait()
    return bool(received.item())


_COLLECTIVES = ("_reduce_scatter_base", "alltoall_base")


@contextlib.contextmanager
def own_share_received() -> Iterator[None]:
    """Reduce-scatters and all-to-alls leave what this rank holds, on any device: its part, and its first elements.

    For torch before 2.13, whose fake process group leaves their outputs as they are.
    """
    # as the class holds them: what it gives when asked binds no instance, and could not be put back
    scatter, exchange = (vars(dist.ProcessGroup)[name] for name in _COLLECTIVES)
    call_scatter, call_exchange = (getattr(dist.ProcessGroup, name) for name in _COLLECTIVES)

    def scattered(group: dist.ProcessGroup, output: torch.Tensor, whole: torch.Tensor, *more: Any) -> Any:
        with torch.no_grad():
            output.copy_(whole.view(group.size(), -1)[group.rank()].view_as(output))
        return call_scatter(group, output, whole, *more)

    def exchanged(group: dist.ProcessGroup, output: torch.Tensor, own: torch.Tensor, *more: Any) -> Any:
        held = min(output.numel(), own.numel())
        with torch.no_grad():
            output.view(-1)[:held].copy_(own.reshape(-1)[:held])
            output.view(-1)[held:].zero_()
        return call_exchange(group, output, own, *more)

    _replace_collectives(scattered, exchanged)
    try:
        yield
    finally:
        _replace_collectives(scatter, exchange)


def _replace_collectives(*functions: Any) -> None:
    for name, function in zip(_COLLECTIVES, functions, strict=True):
        setattr(dist.ProcessGroup, name, function)


def _replace_transfers(send: Callable[..., object], receive: Callable[..., object]) -> None:
    """Under both of torch's names: a batch checks one against the other, by the functions' own names too."""
    for name, function in (("isend", send), ("irecv", receive)):
        function.__name__ = name
        for module in (dist, dist.distributed_c10d):
            setattr(module, name, function)


_NOISE = 0.02  # of activations, whose norms are divided by, and of gradients, which are clipped
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

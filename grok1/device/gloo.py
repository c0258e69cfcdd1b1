"""gloo for many ranks on a few cores: one connection loop a process, one worker a group, fewer and shorter rounds.

torch gives every group a loop thread of its own, which wakes up a hundred times a second whether there is traffic or
not: with megatron's 17 groups a rank and 16 ranks that is 27,000 wake-ups a second (torch 2.13). And it gives every
group two worker threads, which a group whose operations wait for each other anyway has no use for.

gloo's all-reduce and all-gather send parts around a ring, a wake-up of every rank for each part, and torch's
reduce-scatter on gloo is such an all-reduce of which each rank keeps its own part. In a group of a few ranks each can
send to all the others at once and sum what it gets: `reduce_scatter_tensor`, `all_gather_into_tensor` and `all_reduce`
below do, in place of torch's of the same names, wherever the backend is this one. Every rank sums in the same order.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeGuard

import torch
import torch.distributed as dist
from packaging.version import Version
from torch import Tensor

Group = dist.ProcessGroup | None  # None is the whole job
ReduceOp = dist.ReduceOp.RedOpType
BACKEND = "shared_gloo"  # torch refuses a second backend of gloo's own name
COALESCING = "_coalescing_manager"  # torch.distributed's: in it megatron reduces gradients and gathers weights
_MOST_RANKS = 8  # of a group whose ranks all send to each other: messages grow with its square
_MOST_COPIED_BYTES = 1 << 20  # what is sent to all is copied for each; beyond this the ring is as fast
# torch 2.7's gloo scatters sums, whatever reduction is asked for; in 2.11 it does as told
_SCATTERS_SUMS_ALONE = Version(torch.__version__) < Version("2.11")
REDUCTIONS: dict[ReduceOp, Callable[[Tensor, Tensor], Tensor]] = {  # of [G, N], into [N]
    dist.ReduceOp.SUM: lambda parts_GN, out_N: torch.sum(parts_GN, dim=0, dtype=parts_GN.dtype, out=out_N),
    dist.ReduceOp.MAX: lambda parts_GN, out_N: torch.amax(parts_GN, dim=0, out=out_N),
    dist.ReduceOp.MIN: lambda parts_GN, out_N: torch.amin(parts_GN, dim=0, out=out_N),
}


@functools.cache
def register() -> None:
    """Make the backend known to torch.distributed; the first group connects it."""
    dist.Backend.register_backend(BACKEND, _create, devices=["cpu"])


def _create(store: object, rank: int, size: int, timeout: timedelta) -> dist.ProcessGroup:
    gloo: Any = dist.ProcessGroupGloo  # its options are private
    options = gloo._Options()
    options._devices, options._threads, options._timeout = _devices(), 1, timeout
    group: dist.ProcessGroup = gloo(store, rank, size, options)
    return group


@functools.cache
def _devices() -> list[object]:
    """One for each interface of GLOO_SOCKET_IFNAME, as in torch's own gloo; without it, the host name's."""
    names = os.environ.get("GLOO_SOCKET_IFNAME")
    if not names:
        return [dist.ProcessGroupGloo.create_default_device()]
    return [dist.ProcessGroupGloo.create_device(interface=name) for name in names.split(",") if name]


# ---- direct exchanges ----------------------------------------------------------------------------------


class Handle(Protocol):
    """A collective under way, as torch's `Work`."""

    def wait(self) -> object:
        """Until this rank has its result."""
        ...


class Exchange:
    """A collective under way whose result this rank makes itself: `finish` does, once all is here."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish: Callable[[], None] | None = finish

    def wait(self) -> bool:
        """Until this rank has its result."""
        if self._finish is not None:
            self._finish()
            self._finish = None
        return True


def direct_collectives() -> list[Callable[..., Handle | None]]:
    """torch.distributed's functions of these names, by direct exchange wherever `_is_direct`, else as they were."""
    ring_scatter, ring_gather = dist.reduce_scatter_tensor, dist.all_gather_into_tensor
    ring_reduce = dist.all_reduce
    send_to_each: Callable[..., Handle] = functools.partial(dist.all_to_all_single, async_op=True)

    def reduce_scatter_tensor(
        output: Tensor, input: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if op not in REDUCTIONS or not _is_direct(group, output):
            if op != dist.ReduceOp.SUM and _SCATTERS_SUMS_ALONE:
                raise NotImplementedError(  # by torch, which says nothing and gives another result
                    f"reduce_scatter_tensor with {op}: gloo of torch {torch.__version__} would sum"
                )
            return ring_scatter(output, input, op=op, group=group, async_op=async_op)
        parts = input.reshape(group.size(), -1)
        received = torch.empty_like(parts)
        work = send_to_each(received, parts, group=group)
        return waited(Exchange(lambda: _reduce_into(output, received, op, work)), async_op)

    def all_gather_into_tensor(
        output_tensor: Tensor, input_tensor: Tensor, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if not _is_direct(group, output_tensor, output_tensor.nbytes):
            return ring_gather(output_tensor, input_tensor, group=group, async_op=async_op)
        copies = input_tensor.reshape(1, -1).repeat(group.size(), 1)
        work = send_to_each(output_tensor.view(copies.shape), copies, group=group)
        return waited(work, async_op)

    def all_reduce(
        tensor: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if op not in REDUCTIONS or not _is_direct(group, tensor, _MOST_RANKS * tensor.nbytes):
            return ring_reduce(tensor, op=op, group=group, async_op=async_op)
        copies = tensor.reshape(1, -1).repeat(group.size(), 1)
        received = torch.empty_like(copies)
        work = send_to_each(received, copies, group=group)
        return waited(Exchange(lambda: _reduce_into(tensor, received, op, work)), async_op)

    return [reduce_scatter_tensor, all_gather_into_tensor, all_reduce]


def _reduce_into(output: Tensor, parts_GN: Tensor, op: ReduceOp, received: Handle) -> None:
    received.wait()
    if output.is_contiguous():
        REDUCTIONS[op](parts_GN, output.data.view(-1))
        return
    output.copy_(REDUCTIONS[op](parts_GN, torch.empty_like(parts_GN[0])).view(output.shape))


def _is_direct(group: Group, tensor: Tensor, copied_bytes: int = 0) -> TypeGuard[dist.ProcessGroup]:
    """Whether the group exchanges this tensor directly. Every rank must answer alike, so it depends on shapes alone."""
    return (
        isinstance(group, dist.ProcessGroup)  # not torch's mark for groups that this rank is not in
        and 1 < group.size() <= _MOST_RANKS
        and copied_bytes <= _MOST_COPIED_BYTES
        and is_ours(group, tensor)
    )


def is_ours(group: dist.ProcessGroup, tensor: Tensor) -> bool:
    """Whether this backend serves the group, and a collective of this tensor may be done otherwise than by gloo."""
    return (
        not tensor.is_complex()
        and dist.get_backend(group) == BACKEND
        # inside torch's coalescing manager calls are only taken down (2.13); megatron's buffers use it
        and group not in dist.distributed_c10d._world.pg_coalesce_state
    )


def waited(handle: Handle, async_op: bool) -> Handle | None:
    """The handle, or None once it has been waited for: what a collective of torch's returns."""
    if async_op:
        return handle
    handle.wait()
    return None

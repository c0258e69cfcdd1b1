"""torch.distributed's collectives through the memory of one machine, wherever a group's ranks are all on it.

Otherwise, and on other backends, they are what they were. Counted, like theirs, under the names that were called.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.device.gloo import BACKEND, COALESCING, REDUCTIONS, Exchange, Group, Handle, ReduceOp, is_ours, waited
from grok1.device.mailboxes import Mailboxes, Rounds, mailboxes

_MOST_READ_BYTES = 32 << 20  # by a rank for an all-reduce, of which it reads all that all wrote; beyond it, a ring


def shared_collectives() -> list[Callable[..., object]]:
    """torch.distributed's functions of these names, through shared memory wherever `_shared`, else as they were.

    Tensors are written as gloo writes them, unseen by autograd: hence `.data`.
    """
    scatter, gather = dist.reduce_scatter_tensor, dist.all_gather_into_tensor
    reduce, exchange = dist.all_reduce, dist.all_to_all_single

    def reduce_scatter_tensor(
        output: Tensor, input: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if op not in REDUCTIONS or (boxes := _shared(group, output)) is None:
            return _noted(scatter(output, input, op=op, group=group, async_op=async_op), group)
        return _begun(boxes, boxes.scatter(output.data, input.data, REDUCTIONS[op]), group, async_op)

    def all_gather_into_tensor(
        output_tensor: Tensor, input_tensor: Tensor, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if (boxes := _shared(group, output_tensor)) is None:
            return _noted(gather(output_tensor, input_tensor, group=group, async_op=async_op), group)
        return _begun(boxes, boxes.gather(output_tensor.data, input_tensor.data), group, async_op)

    def all_reduce(
        tensor: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        size = dist.get_world_size(group)  # -1 for torch's mark
        is_small = size * tensor.nbytes <= _MOST_READ_BYTES
        if op not in REDUCTIONS or not is_small or (boxes := _shared(group, tensor)) is None:
            return _noted(reduce(tensor, op=op, group=group, async_op=async_op), group)
        return _begun(boxes, boxes.reduce(tensor.data, REDUCTIONS[op]), group, async_op)

    def all_to_all_single(
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int] | None = None,
        input_split_sizes: Sequence[int] | None = None,
        group: Group = None,
        async_op: bool = False,
    ) -> Handle | None:
        if (boxes := _shared(group, output)) is None:
            sizes = output_split_sizes, input_split_sizes
            return _noted(exchange(output, input, *sizes, group=group, async_op=async_op), group)
        received = _shares(output, output_split_sizes, boxes.size)
        sent = _shares(input, input_split_sizes, boxes.size)
        return _begun(boxes, boxes.exchange(output.data, input.data, received, sent), group, async_op)

    collectives: list[Callable[..., object]] = [
        reduce_scatter_tensor,
        all_gather_into_tensor,
        all_reduce,
        all_to_all_single,
    ]
    return [*collectives, _coalescing_manager(getattr(dist, COALESCING))]


def _shared(group: Group, tensor: Tensor) -> Mailboxes | None:
    """The group's mailboxes, if this goes through them. Ranks answer alike: by the group, the type, the machine."""
    chosen = _chosen(group)
    # not torch's mark for groups that this rank is not in
    return mailboxes(chosen) if isinstance(chosen, dist.ProcessGroup) and is_ours(chosen, tensor) else None


def _chosen(group: Group) -> dist.ProcessGroup:
    """The group, or the whole job's."""
    return cast(dist.ProcessGroup, dist.group.WORLD if group is None else group)


# ---- several at once -----------------------------------------------------------------------------------


_TOGETHER: dict[dist.ProcessGroup, Any] = {}  # of groups whose calls are collected now: torch's list of handles


def _coalescing_manager(
    original: Callable[..., contextlib.AbstractContextManager[object]],
) -> Callable[..., contextlib.AbstractContextManager[object]]:
    """torch's; where a group shares memory nothing is won by taking calls down first, and they just begin."""

    @contextlib.contextmanager
    def call(group: Group = None, device: torch.device | None = None, async_ops: bool = False) -> Iterator[object]:
        chosen = _chosen(group)
        if dist.get_backend(chosen) != BACKEND or mailboxes(chosen) is None:
            with original(group, device, async_ops) as under_way:
                yield under_way
            return
        together = _TOGETHER[chosen] = dist.distributed_c10d._CoalescingManager()
        try:
            yield together
        finally:
            del _TOGETHER[chosen]
        if not async_ops:
            together.wait()

    call.__name__ = COALESCING
    return call


def _noted(handle: Handle | None, group: Group) -> Handle | None:
    """The handle; inside a coalescing manager it is waited for there."""
    if _TOGETHER and handle is not None and (together := _TOGETHER.get(_chosen(group))) is not None:
        together.append(handle)
    return handle


def _begun(boxes: Mailboxes, rounds: Rounds, group: Group, async_op: bool) -> Handle | None:
    return _noted(waited(Exchange(boxes.begin(rounds)), async_op), group)


def _shares(tensor: Tensor, rows: Sequence[int] | None, size: int) -> list[int]:
    """Bytes for each rank: of so many rows, or equal.

    Raises:
        RuntimeError: they are not the tensor's.
    """
    if rows is None or len(rows) == 0:
        if tensor.shape[0] % size:
            raise RuntimeError(f"all_to_all: {tensor.shape[0]} rows do not divide among {size} ranks")
        return [tensor.nbytes // size] * size
    row_bytes = tensor.itemsize * math.prod(tensor.shape[1:])
    if sum(rows) != tensor.shape[0] or len(rows) != size:
        raise RuntimeError(f"all_to_all: shares of {list(rows)} rows, of {tensor.shape[0]}, for {size} ranks")
    return [int(each) * row_bytes for each in rows]

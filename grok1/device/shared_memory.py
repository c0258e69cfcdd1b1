"""torch.distributed's collectives through the memory of one machine, wherever a group's ranks are all on it.

Otherwise, and on other backends, they are what they were. Counted, like theirs, under the names that were called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor

from grok1.device.gloo import REDUCTIONS, Exchange, Group, Handle, ReduceOp, is_ours, waited
from grok1.device.mailboxes import Mailboxes, Rounds, mailboxes

_MOST_READ_BYTES = (
    32 << 20
)  # for an all-reduce by each rank, which reads all that all wrote; beyond it a ring is faster


def shared_collectives() -> list[Callable[..., Handle | None]]:
    """torch.distributed's functions of these names, through shared memory wherever `_shared`, else as they were.

    Tensors are written as gloo writes them, unseen by autograd: hence `.data`.
    """
    scatter, gather = dist.reduce_scatter_tensor, dist.all_gather_into_tensor
    reduce, exchange = dist.all_reduce, dist.all_to_all_single

    def reduce_scatter_tensor(
        output: Tensor, input: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if op not in REDUCTIONS or (boxes := _shared(group, output)) is None:
            return scatter(output, input, op=op, group=group, async_op=async_op)
        return _begun(boxes, boxes.scatter(output.data, input.data, REDUCTIONS[op]), async_op)

    def all_gather_into_tensor(
        output_tensor: Tensor, input_tensor: Tensor, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        if (boxes := _shared(group, output_tensor)) is None:
            return gather(output_tensor, input_tensor, group=group, async_op=async_op)
        return _begun(boxes, boxes.gather(output_tensor.data, input_tensor.data), async_op)

    def all_reduce(
        tensor: Tensor, op: ReduceOp = dist.ReduceOp.SUM, group: Group = None, async_op: bool = False
    ) -> Handle | None:
        size = dist.get_world_size(group)  # -1 for torch's mark
        is_small = size * tensor.nbytes <= _MOST_READ_BYTES
        if op not in REDUCTIONS or not is_small or (boxes := _shared(group, tensor)) is None:
            return reduce(tensor, op=op, group=group, async_op=async_op)
        return _begun(boxes, boxes.reduce(tensor.data, REDUCTIONS[op]), async_op)

    def all_to_all_single(
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int] | None = None,
        input_split_sizes: Sequence[int] | None = None,
        group: Group = None,
        async_op: bool = False,
    ) -> Handle | None:
        if (boxes := _shared(group, output)) is None:
            return exchange(output, input, output_split_sizes, input_split_sizes, group=group, async_op=async_op)
        received = _shares(output, output_split_sizes, boxes.size)
        sent = _shares(input, input_split_sizes, boxes.size)
        return _begun(boxes, boxes.exchange(output.data, input.data, received, sent), async_op)

    return [reduce_scatter_tensor, all_gather_into_tensor, all_reduce, all_to_all_single]


def _shared(group: Group, tensor: Tensor) -> Mailboxes | None:
    """The group's mailboxes, if this goes through them. Ranks answer alike: by the group, the type, the machine."""
    if group is None:
        group = dist.group.WORLD
    # not torch's mark for groups that this rank is not in
    return mailboxes(group) if isinstance(group, dist.ProcessGroup) and is_ours(group, tensor) else None


def _begun(boxes: Mailboxes, rounds: Rounds, async_op: bool) -> Handle | None:
    return waited(Exchange(boxes.begin(rounds)), async_op)


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

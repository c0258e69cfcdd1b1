"""A sequence split over the ranks of a context group, and the exchanges by which attention still sees all of it.

The split is megatron's: 2 C chunks of equal length, of which rank r of C has chunks r and 2 C - 1 - r, in that order.
A query sees what lies before it, so this gives every rank the same number of (query, key) pairs.

Two exchanges, each one collective there and one back in the backward. `gathered` makes keys and values whole, and
leaves the queries where they are. `heads_for_sequence` gives each rank the whole sequence of some of the heads;
`sequence_for_heads` is its way back.

Legend: S tokens of a rank, T = S C those of the sequence, K = S / 2 those of a chunk, B micro-batch, H query heads,
G key/value heads, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from grok1.kernels.context import Context

Group = dist.ProcessGroup


def in_order(parts_C2: Tensor, dim: int = 0) -> Tensor:
    """All 2 C chunks as in the sequence, of each rank's two [.., C, 2, ..]; C is dimension `dim`."""
    first, second = parts_C2.unbind(dim + 1)
    return torch.cat((first, second.flip(dim)), dim)


def by_rank(chunks: Tensor) -> Tensor:
    """Each rank's two chunks [C, 2, ...], of the sequence's [2 C, ...]."""
    first, second = chunks.chunk(2)
    return torch.stack((first, second.flip(0)), dim=1)


def gathered(key_SBGD: Tensor, value_SBGD: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Keys and values [T, B, G, D] of the whole sequence, in its order."""
    parts_C2SBGD: Tensor = _Gathered.apply(torch.stack((key_SBGD, value_SBGD)), group)
    chunks_2NKBGD = in_order(parts_C2SBGD.movedim(0, 1).unflatten(2, (2, -1)), dim=1)
    key, value = chunks_2NKBGD.flatten(1, 2).unbind()
    return key, value


def heads_for_sequence(
    query_SBHD: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, group: Group
) -> tuple[Tensor, Tensor, Tensor]:
    """Query [T, B, H/C, D], key and value [T, B, G/C, D]: the whole sequence of this rank's share of the heads."""
    ranks = group.size()
    heads = (query_SBHD, key_SBGD, value_SBGD)
    shares = [each.shape[2] // ranks for each in heads]
    of_rank_SBCXD = torch.cat([each.unflatten(2, (ranks, -1)) for each in heads], dim=3)
    parts_CSBXD: Tensor = _Exchanged.apply(of_rank_SBCXD.movedim(2, 0).contiguous(), group)
    whole_TBXD = in_order(parts_CSBXD.unflatten(1, (2, -1))).flatten(0, 1)
    query, key, value = whole_TBXD.split(shares, dim=2)
    return query, key, value


def sequence_for_heads(attended_TBXD: Tensor, group: Group) -> Tensor:
    """[S, B, H, D] of all heads at this rank's tokens, from [T, B, H/C, D] of its heads at all tokens."""
    parts_CSBXD = by_rank(attended_TBXD.unflatten(0, (2 * group.size(), -1))).flatten(1, 2)
    of_head_CSBXD: Tensor = _Exchanged.apply(parts_CSBXD, group)
    return of_head_CSBXD.movedim(0, 2).flatten(2, 3)


class _InGroup(Context, Protocol):
    group: Group


class _Gathered(torch.autograd.Function):
    """The parts [C, ...] of all ranks, of this one's; back, the sum of what the ranks have for its part."""

    @staticmethod
    def forward(ctx: _InGroup, mine: Tensor, group: Group) -> Tensor:
        ctx.group = group
        parts_C = mine.new_empty((group.size(), *mine.shape))
        dist.all_gather_into_tensor(parts_C.flatten(0, 1), mine, group=group)
        return parts_C

    @staticmethod
    @once_differentiable
    def backward(ctx: _InGroup, slope_C: Tensor) -> tuple[Tensor, None]:
        mine = torch.empty_like(slope_C[0], memory_format=torch.contiguous_format)
        dist.reduce_scatter_tensor(mine, slope_C.contiguous().flatten(0, 1), group=ctx.group)
        return mine, None


class _Exchanged(torch.autograd.Function):
    """The parts [C, ...] that the ranks have for this one, for the parts [C, ...] that it has for them."""

    @staticmethod
    def forward(ctx: _InGroup, parts_C: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _exchanged(parts_C, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: _InGroup, slope_C: Tensor) -> tuple[Tensor, None]:
        return _exchanged(slope_C.contiguous(), ctx.group), None


def _exchanged(parts_C: Tensor, group: Group) -> Tensor:
    received_C = torch.empty_like(parts_C)
    dist.all_to_all_single(received_C, parts_C, group=group)
    return received_C

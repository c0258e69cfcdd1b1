"""Which part of a sequence each rank of a context group has: megatron's split, which gives all the same work."""

from __future__ import annotations

import torch
from torch import Tensor


def chunks_of_rank(ranks: int, rank: int) -> tuple[int, int]:
    """Numbers of the two chunks, of 2 x `ranks`, that a rank has."""
    return rank, 2 * ranks - 1 - rank


def part_of_rank(values_BT: Tensor, ranks: int, rank: int) -> Tensor:
    """A rank's two chunks [B, T / ranks, ...] of whole sequences [B, T, ...]."""
    chunks = values_BT.chunk(2 * ranks, dim=1)
    return torch.cat([chunks[number] for number in chunks_of_rank(ranks, rank)], dim=1)

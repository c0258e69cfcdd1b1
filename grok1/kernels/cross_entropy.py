"""Cross-entropy of logits that are split over the vocabulary: one exchange in place of three, no second set of logits.

megatron's version multiplies the logits by Grok-1's output multiplier into a new tensor, makes that float32, keeps the
softmax of it for backward, and sums over the tensor ranks three times (the maximum, the target's logit, the sum of
exponentials). Its fused version sums twice and rounds the gradient to bfloat16, whatever the model's type (0.12). Here
each rank hands the three figures of its own part to the others at once, backward computes the softmax again from the
logits as they are, and float32 exists for a block of tokens at a time.

Legend: N tokens, S x B; n a block of them; V this rank's part of the vocabulary; G tensor ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.kernels.context import Context

_BLOCK_ELEMENTS = 1 << 20  # float32 logits at a time: 4 MiB


def cross_entropy(logits_SBV: Tensor, targets_SB: Tensor, multiplier: float, group: dist.ProcessGroup) -> Tensor:
    """-log softmax(multiplier x logits) at each target, float32 [S, B]; targets count over all ranks' parts."""
    losses_SB: Tensor = _CrossEntropy.apply(logits_SBV, targets_SB, multiplier, group)
    return losses_SB


class _Kept(Context, Protocol):
    multiplier: float
    shape: torch.Size  # [S, B, V]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Kept, logits_SBV: Tensor, targets_SB: Tensor, multiplier: float, group: dist.ProcessGroup
    ) -> Tensor:
        logits_NV = logits_SBV.flatten(0, 1)
        targets_N = targets_SB.flatten() - group.rank() * logits_NV.shape[1]
        is_here_N = (targets_N >= 0) & (targets_N < logits_NV.shape[1])
        targets_N = targets_N.where(is_here_N, 0)
        parts_3N = logits_NV.new_empty((3, len(logits_NV)), dtype=torch.float32)
        for rows in _blocks(logits_NV):
            scaled_nV = logits_NV[rows].float() * multiplier
            maximum_n, target_n, sum_n = (part[rows] for part in parts_3N)
            torch.amax(scaled_nV, dim=1, out=maximum_n)
            target_n.copy_(scaled_nV.gather(1, targets_N[rows, None])[:, 0])
            torch.sum(scaled_nV.sub_(maximum_n[:, None]).exp_(), dim=1, out=sum_n)
        parts_3N[1].mul_(is_here_N)
        log_sum_N, target_N = _joined(parts_3N, group)
        ctx.save_for_backward(logits_NV, targets_N, is_here_N, log_sum_N)
        ctx.multiplier, ctx.shape = multiplier, logits_SBV.shape
        return (log_sum_N - target_N).view(targets_SB.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Kept, upstream_SB: Tensor) -> tuple[Tensor, None, None, None]:
        logits_NV, targets_N, is_here_N, log_sum_N = ctx.saved_tensors
        scale_N = upstream_SB.flatten().float() * ctx.multiplier
        d_logits_NV = torch.empty_like(logits_NV)
        for rows in _blocks(logits_NV):
            softmax_nV = (logits_NV[rows].float() * ctx.multiplier).sub_(log_sum_N[rows, None]).exp_()
            softmax_nV.scatter_add_(1, targets_N[rows, None], -is_here_N[rows, None].float())
            d_logits_NV[rows] = softmax_nV.mul_(scale_N[rows, None])
        return d_logits_NV.view(ctx.shape), None, None, None


def _joined(parts_3N: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """(log of the sum of exponentials, the target's logit), each [N], from every rank's maximum, logit and sum."""
    parts_G3N = parts_3N[None]
    if group.size() > 1:
        parts_G3N = parts_3N.new_empty((group.size(), *parts_3N.shape))
        dist.all_gather_into_tensor(parts_G3N.view(-1), parts_3N.view(-1), group=group)
    maximum_GN, target_GN, sum_GN = parts_G3N.unbind(dim=1)
    maximum_N = maximum_GN.amax(dim=0)
    total_N = (sum_GN * (maximum_GN - maximum_N).exp()).sum(dim=0)
    return maximum_N + total_N.log(), target_GN.sum(dim=0)


def _blocks(logits_NV: Tensor) -> Iterator[slice]:
    tokens, width = logits_NV.shape
    step = max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))

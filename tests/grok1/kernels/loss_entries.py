"""Cross-entropy over a split vocabulary beside torch's over the whole one, as an entry for the launcher."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from grok1.distributed.groups import joined, tensor_group
from grok1.distributed.rendezvous import Rendezvous
from grok1.kernels.cross_entropy import cross_entropy
from grok1.training.job import Job

MULTIPLIER = 0.577
CASES = {  # dtype, (S, B, whole vocabulary), scale of the logits
    "one block": (torch.float32, (7, 3, 64), 3.0),
    "many blocks": (torch.float32, (24, 2, 1 << 18), 3.0),
    "huge logits": (torch.float32, (5, 2, 64), 1e4),
    "bf16": (torch.bfloat16, (7, 3, 64), 3.0),
}


def beside_torch(job: Job, where: Rendezvous, _emit: Any) -> dict[str, dict[str, float]]:
    """Largest errors of losses and gradients by case, over the largest value, and bytes kept over the logits' own."""
    with joined(where, job.recipe.parallel, 0):
        return {name: _compare(*case) for name, case in CASES.items()}


def _compare(dtype: torch.dtype, shape: tuple[int, int, int], scale: float) -> dict[str, float]:
    group = tensor_group()
    generator = torch.Generator().manual_seed(3)
    whole = (torch.randn(shape, generator=generator) * scale).to(dtype)
    targets_SB = torch.randint(shape[2], shape[:2], generator=generator)
    upstream_SB = torch.rand(shape[:2], generator=generator)
    reference = whole.double().requires_grad_()
    wanted = F.cross_entropy((reference * MULTIPLIER).flatten(0, 1), targets_SB.flatten(), reduction="none")
    wanted.backward(upstream_SB.flatten().double())

    part = whole.chunk(group.size(), dim=2)[group.rank()].clone().requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = cross_entropy(part, targets_SB, MULTIPLIER, group)
    losses.backward(upstream_SB)
    assert reference.grad is not None
    assert part.grad is not None
    assert part.grad.dtype == dtype
    gradient = reference.grad.chunk(group.size(), dim=2)[group.rank()]
    errors = torch.stack([_relative(losses.flatten(), wanted), _relative(part.grad, gradient)])
    dist.all_reduce(errors, dist.ReduceOp.MAX)
    kept_bytes = sum(tensor.nbytes for tensor in kept) / part.nbytes
    return {"loss": float(errors[0]), "gradient": float(errors[1]), "kept": kept_bytes}


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.double() - wanted).abs().max() / wanted.abs().max()

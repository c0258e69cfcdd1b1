"""torch_npu's RMS norm by a stand-in, and training with it as an entry for the launcher."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job
from grok1.training.run import run_rank

CALLS: list[tuple[torch.dtype, torch.dtype]] = []  # dtypes of x and of the weight


def npu_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """As torch_npu says: y in x's dtype, and the reciprocal root in fp32. Refuses what the kernel refuses."""
    assert gamma.shape == x.shape[-gamma.dim() :], (gamma.shape, x.shape)
    assert gamma.dtype in (x.dtype, torch.float32), (gamma.dtype, x.dtype)
    CALLS.append((x.dtype, gamma.dtype))
    reciprocal = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (x.float() * reciprocal * gamma.float()).to(x.dtype), reciprocal


def stand_in() -> ModuleType:
    module = ModuleType("torch_npu")
    module.__dict__["npu_rms_norm"] = npu_rms_norm
    return module


def train_with_the_kernel(job: Job, where: Rendezvous, emit: Any) -> tuple[Any, int]:
    """The run's result, and how often the kernel was called."""
    sys.modules["torch_npu"] = stand_in()
    from grok1.model import layers

    vars(layers)["check_npu_norm"] = lambda kind: None
    return run_rank(job, where, emit), len(CALLS)

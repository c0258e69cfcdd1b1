"""Ranks with one deliberate fault each, as entries for the doctor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from bench.doctor import collectives, layer, memory, speed, training
from bench.doctor.speed import DeviceSpeed
from grok1.distributed.rendezvous import Rendezvous
from grok1.fidelity import verify
from grok1.model import layers
from grok1.training import assembly

Emit = Callable[[Any], None]


def device_that_raises(job: object, where: Rendezvous, emit: Callable[[DeviceSpeed], None]) -> None:
    """A driver error in the first product."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def product_that_is_wrong(job: object, where: Rendezvous, emit: Callable[[DeviceSpeed], None]) -> None:
    """A matrix product that returns something else."""
    product: Callable[..., torch.Tensor] = torch.matmul
    torch.matmul = lambda *args, **named: product(*args, **named).add_(1)
    speed.run_rank(job, where, emit)


def rank_that_drops_a_collective(recipe: Any, where: Rendezvous, emit: Emit) -> None:
    """Rank 1 leaves out one all-gather, for which the others wait."""
    gather = dist.all_gather_into_tensor
    if where.rank == 1:
        dist.all_gather_into_tensor = lambda *args, **named: None
    try:
        collectives.run_rank(recipe, where, emit)
    finally:
        dist.all_gather_into_tensor = gather
        time.sleep(60)  # it lives on, so that nobody is told


def rank_that_sums_wrongly(recipe: Any, where: Rendezvous, emit: Emit) -> None:
    """Rank 1 gets sums that are too small."""
    reduce: Callable[..., Any] = dist.all_reduce

    def wrong(tensor: torch.Tensor, *args: Any, **named: Any) -> Any:
        work = reduce(tensor, *args, **named)
        tensor.sub_(float(where.rank == 1))
        return work

    dist.all_reduce = wrong
    collectives.run_rank(recipe, where, emit)


def norm_that_is_wrong(recipe: Any, where: Rendezvous, emit: Emit) -> layer.LayerResult:
    """A fused norm with another epsilon."""
    _spoil_the_norm()
    return layer.run_rank(recipe, where, emit)


def oracle_with_a_wrong_norm(job: Any, where: Rendezvous, emit: Emit) -> Any:
    """The same in the whole model."""
    _spoil_the_norm()
    return verify.run_rank(job, where, emit)


def _spoil_the_norm() -> None:
    forward = layers.RMSNorm.forward
    layers.RMSNorm.forward = lambda self, x: forward(self, x) * 1.05  # type: ignore[method-assign]


def weights_that_are_not_gathered(job: Any, where: Rendezvous, emit: Emit) -> None:
    """Each replica keeps what it had of the part that another one updates."""
    build = assembly.build_stepper

    def spoiled(*args: Any, **named: Any) -> Any:
        stepper: Any = build(*args, **named)
        kept = {name: each.detach().clone() for name, each in stepper.model.named_parameters()}
        step = stepper.optimizer.step

        def without_gathering() -> Any:
            done = step()
            for name, parameter in stepper.model.named_parameters():
                if parameter.dim() == 1 and stepper.ranks.data == 1:
                    parameter.data.copy_(kept[name])
            return done

        stepper.optimizer.step = without_gathering
        return stepper

    assembly.build_stepper = spoiled
    training.run_rank(job, where, emit)


def update_that_is_skipped(job: Any, where: Rendezvous, emit: Emit) -> None:
    """An optimizer that updates nothing, on any rank."""
    build = assembly.build_stepper

    def spoiled(*args: Any, **named: Any) -> Any:
        stepper: Any = build(*args, **named)
        for group in stepper.optimizer.param_groups:
            group["lr"] = 0.0
        stepper.scheduler.step = lambda increment: None
        return stepper

    assembly.build_stepper = spoiled
    training.run_rank(job, where, emit)


def memory_on_a_cpu(job: Any, where: Rendezvous, emit: Emit) -> None:
    """No fault: a CPU has no allocator whose peak could be reset."""
    torch.cuda.reset_peak_memory_stats = lambda *_: None
    memory.run_rank(job, where, emit)


def silent(job: object, where: Rendezvous, emit: Emit) -> None:
    """Ends well, and measures nothing."""

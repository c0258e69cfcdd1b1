"""Ten steps of grok1-nano in the layout: losses against the CPU's, weights of the replicas against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.doctor.findings import Finding, failed, not_run, passed
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job

TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # of the loss; bf16 rounding moves it by 2.3e-3 on a CPU
NORM_TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}  # of the gradient norm, relative
LEAST_FALL = 0.05  # of the loss in ten steps; it falls by 0.29


@dataclass(frozen=True)
class RankSteps:
    """What one rank saw. Losses are the global batch's, one a step."""

    rank: int
    losses: list[float]
    grad_norms: list[float]
    compared: int  # parameters that the replicas hold alike
    differing: list[str]  # those that differ between replicas after the last step
    peak_bytes: int


def run_rank(job: Job, where: Rendezvous, emit: Callable[[RankSteps], None]) -> None:
    """Train on this rank, then compare its weights with its replicas'."""
    from grok1.device import measuring
    from grok1.training.assembly import build_stepper, joined_with_data

    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(job.recipe, ranks, batches)
        metrics = [stepper.run(step).metrics for step in range(job.num_steps)]
        compared, differing = _differing_parameters(stepper.model)
        emit(
            RankSteps(
                ranks.rank,
                [each.loss for each in metrics],
                [each.grad_norm for each in metrics],
                compared,
                differing,
                measuring.peak_bytes()[0],
            )
        )


def _differing_parameters(model: Any) -> tuple[int, list[str]]:
    """How many parameters have replicas, and the names of those that differ from a replica's in any bit."""
    import torch
    import torch.distributed as dist

    [chunk] = model  # the doctor's layouts interleave nothing
    groups = {False: chunk.buffers, True: chunk.expert_parallel_buffers}
    compared, differing = 0, []
    for name, parameter in chunk.named_parameters():
        buffers = groups[not getattr(parameter, "allreduce", True)]  # megatron's mark of an expert's
        group = buffers[0].data_parallel_group
        if group.size() == 1:
            continue
        compared += 1
        mine = parameter.detach().float().flatten()  # exact: fp32 holds every bf16
        everyone = torch.empty(group.size() * mine.numel(), device=mine.device)
        dist.all_gather_into_tensor(everyone, mine, group=group)
        if not torch.equal(everyone, mine.repeat(group.size())):
            differing.append(name)
    return compared, differing


# ---- verdicts ------------------------------------------------------------------------------------------


def judge_steps(
    dtype: str, found: Sequence[RankSteps], losses: Sequence[float], grad_norms: Sequence[float]
) -> Finding:
    """`losses` and `grad_norms` are the CPU's, of one rank in fp32."""
    check, first = f"ten steps {dtype}", found[0]
    remedy = (
        "a layout or a kernel of this device trains something else. Step 1 is the forward, step 2 the first update. "
        "Repeat on one rank (--ranks 1), then with one axis of the layout at a time (--set parallel.tensor=1 ...)"
    )
    figures = {
        "first_loss": first.losses[0],
        "last_loss": first.losses[-1],
        "worst_loss_error": _worst(first.losses, losses),
    }
    said = f"loss {first.losses[0]:.4f} to {first.losses[-1]:.4f}"
    odd = next((each for each in found if each.losses != first.losses), None)
    if odd is not None:
        return failed(check, f"ranks {first.rank} and {odd.rank} do not have the same loss", remedy, figures)
    if len(first.losses) < len(losses) or not all(map(math.isfinite, first.losses + first.grad_norms)):
        return failed(check, f"{said}: not finite, or stopped early", remedy, figures)
    for step, (ours, due) in enumerate(zip(first.losses, losses, strict=True), start=1):
        if abs(ours - due) > TOLERANCE[dtype]:
            said = f"step {step}: loss {ours:.5f} where the CPU has {due:.5f}; {TOLERANCE[dtype]:g} is allowed"
            return failed(check, said, remedy, figures)
    for step, (ours, due) in enumerate(zip(first.grad_norms, grad_norms, strict=True), start=1):
        if abs(ours - due) > NORM_TOLERANCE[dtype] * due:
            said = f"step {step}: gradient norm {ours:.5f} where the CPU has {due:.5f}"
            return failed(check, f"{said}; {NORM_TOLERANCE[dtype]:.1%} is allowed", remedy, figures)
    if first.losses[0] - first.losses[-1] < LEAST_FALL:
        return failed(check, f"{said}: it does not learn", remedy, figures)
    return passed(check, f"{said}, each within {figures['worst_loss_error']:.1e} of the CPU's", figures)


def judge_replicas(dtype: str, found: Sequence[RankSteps]) -> Finding:
    """Replicas must hold the same weights, bit for bit, after every update."""
    check = f"replicas {dtype}"
    compared = max(each.compared for each in found)
    if not compared:
        return not_run(check, "no parameter has a replica in this layout")
    worst = max(found, key=lambda each: len(each.differing))
    if worst.differing:
        said = f"{len(worst.differing)} of {worst.compared} parameters differ between replicas of rank {worst.rank}"
        remedy = (
            "weights are not gathered after the update: the job trains wrongly, without a word. Report it; do not "
            "train on more than one replica"
        )
        return failed(check, f"{said}: {', '.join(worst.differing[:3])}", remedy)
    return passed(check, f"{compared} parameters are equal on all replicas, bit for bit")


def _worst(ours: Sequence[float], due: Sequence[float]) -> float:
    return max((abs(a - b) for a, b in zip(ours, due, strict=False)), default=math.inf)

"""Peak memory of a step against the ledger, which counts its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.doctor.findings import Finding, failed, measured, passed
from grok1.config.recipe import Recipe
from grok1.distributed.rendezvous import Rendezvous

# what kernels allocate for themselves, routing that is not even, and rounding up to the allocator's blocks
MOST_OVER, MOST_OVER_BYTES = 1.15, 512 << 20
LEAST_SHARE = 0.8


@dataclass(frozen=True)
class RankMemory:
    """The allocator's peak during one step, on one rank."""

    rank: int
    stage: int
    peak_bytes: int


def run_rank(recipe: Recipe, where: Rendezvous, emit: Callable[[RankMemory], None]) -> None:
    """Two steps, of which the first makes what stays and the second is measured. Not for a CPU."""
    import torch

    from grok1.device import measuring
    from grok1.distributed.groups import joined
    from grok1.training.assembly import build_stepper
    from grok1.training.fake_step import FakeBatches

    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        stepper = build_stepper(recipe, ranks, FakeBatches(recipe, ranks.context))
        stepper.run(0)
        torch.cuda.reset_peak_memory_stats()
        stepper.run(1)
        emit(RankMemory(ranks.rank, ranks.pipeline, measuring.peak_bytes()[0]))


# ---- verdicts ------------------------------------------------------------------------------------------


def judge(found: Sequence[RankMemory], counted_by_stage: Mapping[int, int]) -> Finding:
    """Holds the rank that is furthest above what the ledger counts for its stage against the bounds."""
    worst = max(found, key=lambda each: each.peak_bytes / counted_by_stage[each.stage])
    counted = counted_by_stage[worst.stage]
    share = worst.peak_bytes / counted
    said = f"{_gib(worst.peak_bytes)} GiB at the peak of rank {worst.rank}, the ledger counts {_gib(counted)} GiB"
    figures = {"peak_bytes": float(worst.peak_bytes), "counted_bytes": float(counted)}
    if worst.peak_bytes > MOST_OVER * counted + MOST_OVER_BYTES:
        remedy = (
            "a kernel of this device keeps more than the ledger knows: leave that much more room than it says when you "
            "choose a recipe, and report which (`grok1 train --recipe NAME --profile 5` shows the step)"
        )
        return failed("memory", f"{said}: {share:.2f} times as much", remedy, figures, blocks=False)
    if share < LEAST_SHARE:
        remedy = "something was not computed, or the ledger describes another step: report both figures"
        return failed("memory", f"{said}: only {share:.0%} of it", remedy, figures, blocks=False)
    return passed("memory", f"{said} ({share:.0%})", figures)


def resident(peak_bytes: int) -> Finding:
    """On a CPU there is only the process's peak, which is not the ledger's."""
    said = f"{_gib(peak_bytes)} GiB at the peak of a rank's process, with Python and torch: the ledger counts tensors"
    return measured("memory", said, {"peak_bytes": float(peak_bytes)})


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"

"""What a run measured, gathered from all ranks as plain data."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import psutil
import torch.distributed as dist

from grok1.config.recipe import Recipe
from grok1.device import measuring
from grok1.device.kind import device_kind
from grok1.device.traffic import Communication
from grok1.distributed.groups import Ranks
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job
from grok1.training.profiling import profiled_modules
from grok1.training.step import Stepper, StepResult
from grok1.training.timers import PHASES

# a record of more is too large to be read: on one rank, and on all together
_MAX_SPANS_OF_RANK = 20_000
_MAX_SPANS = 320_000
_MAX_MODULES = 200


def log_fields(result: StepResult) -> dict[str, Any]:
    """What the running log says of a step."""
    peak, _ = measuring.peak_bytes()
    names = ("step", "loss", "aux_loss", "grad_norm", "learning_rate", "seconds")
    return {**{name: getattr(result, name) for name in names}, "peak_bytes": peak}


def gather_result(
    job: Job,
    where: Rendezvous,
    ranks: Ranks,
    stepper: Stepper,
    results: list[StepResult],
    startup_seconds: float,
) -> dict[str, Any] | None:
    peak, reserved = measuring.peak_bytes()
    mine = {
        "rank": ranks.rank,
        "stage": ranks.pipeline,
        "step_seconds": [result.seconds for result in results],
        "phases_seconds": {phase: [result.phase_seconds[phase] for result in results] for phase in PHASES},
        **communication_samples(results),
        "timeline": timeline_samples(stepper.timeline(), where.world_size),
        "peak_bytes": peak,
        "reserved_bytes": reserved,
        "host_bytes": int(psutil.Process().memory_info().rss),
    }
    load = stepper.expert_load.drain()
    # torch_npu's profiler says nothing of single operators until its files are parsed
    if job.times_modules and device_kind() != "npu" and results and results[-1].is_finite:
        mine["modules_seconds"] = _module_seconds(where, ranks, stepper, results[-1].step)
    gathered: list[Any] = [None] * where.world_size
    dist.all_gather_object(gathered, (mine, load))
    if ranks.rank != 0:
        return None
    return {
        "steps": [_step_fields(result) for result in results],
        "ranks": [rank for rank, _ in gathered],
        "expert_load": _summed_load(job.recipe, [load for _, load in gathered]),
        "startup_seconds": startup_seconds,
        "layout": _layout(job.recipe, where),
        "device": {**asdict(measuring.describe()), "dtype": job.recipe.training.dtype},
        "software": measuring.versions(),
    }


def _module_seconds(where: Rendezvous, ranks: Ranks, stepper: Stepper, step: int) -> dict[str, dict[str, float]]:
    """Where one more step goes, by module, on the first rank of each pipeline stage; its results are dropped."""
    take_step = functools.partial(stepper.run, step)
    if ranks.rank % (where.world_size // stepper.recipe.parallel.pipeline):
        take_step()
        return {}
    found = profiled_modules(stepper.model, take_step).items()
    return {
        name: {"forward": forward, "backward": backward} for name, (forward, backward) in list(found)[:_MAX_MODULES]
    }


def with_collectives(found: list[dict[str, Any]], results: list[StepResult]) -> list[dict[str, Any]]:
    """Each profiled step with what the harness itself timed of its collectives."""
    by_step = {result.step + 1: result for result in results}
    return [
        each
        | {"seconds": by_step[each["step"]].seconds}
        | {"collectives": {name: asdict(sums) for name, sums in by_step[each["step"]].collectives.items()}}
        for each in found
    ]


def communication_samples(results: list[StepResult]) -> dict[str, Any]:
    """Of each step, and by kind of collective; a kind takes no time in a step where it does not occur."""
    names = dict.fromkeys(name for result in results for name in result.collectives)
    nothing = Communication()
    by_name = {name: [result.collectives.get(name, nothing) for result in results] for name in names}
    by_step = [list(result.collectives.values()) for result in results]
    return {
        "communication_seconds": [sum((each.seconds for each in step), 0.0) for step in by_step],
        "communication_calls": [sum(each.calls for each in step) for step in by_step],
        "communication_bytes": [sum(each.bytes for each in step) for step in by_step],
        "collectives": {
            name: {
                "seconds": [each.seconds for each in steps],
                "calls": sum(each.calls for each in steps),
                "bytes": sum(each.bytes for each in steps),
            }
            for name, steps in by_name.items()
        },
    }


def timeline_samples(spans: list[tuple[float, float, str]], world_size: int) -> list[dict[str, Any]]:
    """A rank's (start, end, phase) as plain data; none where they are too many, for half a step misleads."""
    if len(spans) > min(_MAX_SPANS_OF_RANK, _MAX_SPANS // world_size):
        return []
    return [{"phase": phase, "start_seconds": start, "end_seconds": end} for start, end, phase in spans]


def _step_fields(result: StepResult) -> dict[str, Any]:
    return {
        "step": result.step,
        "loss": result.loss,
        "aux_loss": result.aux_loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "skipped": result.skipped,
    }


def _layout(recipe: Recipe, where: Rendezvous) -> dict[str, int]:
    parallel = recipe.parallel
    return {
        "world_size": where.world_size,
        "tensor": parallel.tensor,
        "pipeline": parallel.pipeline,
        "expert": parallel.expert,
        "expert_tensor": parallel.expert_tensor,
        "data": parallel.data,
        "nodes": where.world_size // where.ranks_per_node,
        "ranks_per_node": where.ranks_per_node,
    }


def _summed_load(recipe: Recipe, loads: list[dict[int, list[int]]]) -> list[list[int]]:
    """Tokens per expert by layer, summed over the ranks that route different tokens."""
    total = [[0] * recipe.model.num_experts for _ in range(recipe.model.num_layers)]
    for load in loads:
        for layer, counts in load.items():
            total[layer] = [a + int(b) for a, b in zip(total[layer], counts, strict=True)]
    return total

"""Training on one rank: build, loop, measure. Runs inside each process that launch.py or torchrun started."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import psutil
import torch
import torch.distributed as dist

from grok1 import checkpoint, device
from grok1.config import Recipe
from grok1.data import Batches, training_split
from grok1.job import Job
from grok1.model import build_model
from grok1.optim import build_optimizer
from grok1.parallel import Ranks, Rendezvous, joined
from grok1.profiling import StepProfiler, profiled_modules
from grok1.step import PHASES, Stepper, StepResult

Emit = Callable[[dict[str, Any]], None]

# a record of more is too large to be read: on one rank, and on all together
_MAX_SPANS_OF_RANK = 20_000
_MAX_SPANS = 320_000
_MAX_MODULES = 200


def run_rank(job: Job, where: Rendezvous, emit: Emit) -> dict[str, Any] | None:
    """Train on this rank; rank 0 returns the whole job's measurements as plain data, the others None.

    `emit` receives one small dict a step on rank 0: the running log.
    """
    # the sample index must exist before the ranks meet: rank 0 builds it, or one rank a node without shared disk
    dataset_steps = max(job.num_steps, job.recipe.training.decay_steps)
    if where.rank == 0 or (where.local_rank == 0 and not job.shared_storage):
        training_split(job.recipe, job.data_prefix, job.tokenizer_path, dataset_steps)
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        dataset = training_split(job.recipe, job.data_prefix, job.tokenizer_path, dataset_steps)
        model = build_model(job.recipe, ranks)
        optimizer, scheduler = build_optimizer(model, job.recipe.training)
        first = checkpoint.load(job.load, job.recipe, model, optimizer, scheduler) if job.load else 0
        stepper = Stepper(job.recipe, ranks, model, optimizer, scheduler, Batches(job.recipe, ranks, dataset))
        dist.barrier()
        startup_seconds = time.time() - job.launched_at
        profiler = StepProfiler(job.profile, ranks.rank, model)
        results = _loop(job, ranks, stepper, first, emit, profiler)
        if profiler.found:
            emit({"profile": _with_collectives(profiler.found, results)})
        return _gather(job, where, ranks, stepper, results, startup_seconds)


def _loop(job: Job, ranks: Ranks, stepper: Stepper, first: int, emit: Emit, profiler: StepProfiler) -> list[StepResult]:
    device.TRAFFIC.forget()
    results: list[StepResult] = []
    for step in range(first, job.num_steps):
        with profiler.step(step):
            result = stepper.run(step)
        results.append(result)
        if ranks.rank == 0:
            emit(log_fields(result))
        if not result.is_finite:
            break  # every rank has the same loss and norm, so every rank stops here
        done = step + 1
        is_due = job.save_interval > 0 and done % job.save_interval == 0
        if job.save is not None and (is_due or done == job.num_steps):
            checkpoint.save(job.save, done, job.recipe, ranks, stepper.model, stepper.optimizer, stepper.scheduler)
    return results


def log_fields(result: StepResult) -> dict[str, Any]:
    """What the running log says of a step."""
    peak, _ = device.peak_bytes()
    names = ("step", "loss", "aux_loss", "grad_norm", "learning_rate", "seconds")
    return {**{name: getattr(result, name) for name in names}, "peak_bytes": peak}


def _gather(
    job: Job,
    where: Rendezvous,
    ranks: Ranks,
    stepper: Stepper,
    results: list[StepResult],
    startup_seconds: float,
) -> dict[str, Any] | None:
    peak, reserved = device.peak_bytes()
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
    if job.times_modules and device.kind() != "npu" and results and results[-1].is_finite:
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
        "device": {**asdict(device.describe()), "dtype": job.recipe.training.dtype},
        "software": device.versions(),
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


def _with_collectives(found: list[dict[str, Any]], results: list[StepResult]) -> list[dict[str, Any]]:
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
    nothing = device.Communication()
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


def rendezvous_from_environment(timeout_seconds: float = 600.0) -> Rendezvous | None:
    """Where torchrun or Slurm put this process, or None when neither started it."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:  # torchrun
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local, per_node = (
            int(environment.get("LOCAL_RANK", "0")),
            int(environment.get("LOCAL_WORLD_SIZE", str(world))),
        )
    elif "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        rank, world = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
        local = int(environment.get("SLURM_LOCALID", "0"))
        per_node = world // int(environment.get("SLURM_NNODES", "1"))
    else:
        return None
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if not address or not port:
        raise ValueError("MASTER_ADDR and MASTER_PORT are not set; export the first node's address and a free port")
    return Rendezvous(f"tcp://{address}:{port}", rank, world, local, per_node, timeout_seconds)


def prepare_process() -> None:
    """Settings every rank wants: one thread each unless told otherwise, no chatter."""
    # sixteen ranks would each say that torch renamed a collective, or that an option of megatron's does nothing
    for module in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=module)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler says on stderr when it starts and stops (2.13)
    if device.kind() == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with contextlib.suppress(RuntimeError):  # already set by an earlier job of this process
        torch.set_num_interop_threads(1)

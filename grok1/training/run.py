"""Training on one rank: build, loop, measure. Runs inside each process that launch.py or torchrun started."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from grok1.data.batches import Batches, training_split
from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import build_model
from grok1.training.job import Job
from grok1.training.optimizer import build_optimizer
from grok1.training.profiling import StepProfiler
from grok1.training.result import gather_result, log_fields, with_collectives
from grok1.training.step import Stepper, StepResult
from grok1.weights import checkpoint

Emit = Callable[[dict[str, Any]], None]


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
            emit({"profile": with_collectives(profiler.found, results)})
        return gather_result(job, where, ranks, stepper, results, startup_seconds)


def _loop(job: Job, ranks: Ranks, stepper: Stepper, first: int, emit: Emit, profiler: StepProfiler) -> list[StepResult]:
    TRAFFIC.forget()
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

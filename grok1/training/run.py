"""Training on one rank: build, loop, measure. Runs inside each process that the launcher, torchrun or Slurm started."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch.distributed as dist

from grok1.device import measuring, software
from grok1.device.traffic import TRAFFIC
from grok1.distributed.progress import PROGRESS
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.gathering import gather_result, with_modules
from grok1.training.job import Job
from grok1.training.profiling import StepProfiler
from grok1.training.result import CheckpointSaved, Emit, ProfileDone, Resumed, RunResult, StepDone
from grok1.training.step import Stepper, StepResult
from grok1.weights import checkpoint


def run_rank(job: Job, where: Rendezvous, emit: Emit) -> RunResult | None:
    """Train on this rank; rank 0 returns the whole job's measurements, the others None.

    `emit` receives one event a step and one a checkpoint on rank 0, and the profiles of a rank that was asked for
    them. Where modules are timed, it receives the result before that is tried (see `with_modules`).
    """
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(job.recipe, ranks, batches)
        first = 0
        if job.load is not None:
            first = checkpoint.load(
                job.load, job.recipe, stepper.model, stepper.optimizer, stepper.scheduler, job.allowed_changes
            )
            if ranks.rank == 0:
                emit(Resumed(job.load, first))
        code = software.sources() if ranks.rank == 0 else {}
        dist.barrier()
        startup_seconds = time.time() - job.launched_at
        profiler = StepProfiler(job.profile, ranks.rank, stepper.model)
        results = _loop(job, stepper, first, emit, profiler)
        if profiles := profiler.profiles(results):
            emit(ProfileDone(profiles))
        result = gather_result(where, stepper, results, startup_seconds, code)
        return with_modules(where, stepper, results, result, emit) if job.times_modules else result


def _loop(job: Job, stepper: Stepper, first: int, emit: Emit, profiler: StepProfiler) -> list[StepResult]:
    TRAFFIC.forget()
    results: list[StepResult] = []
    for step in range(first, job.num_steps):
        is_profiled = job.profile is not None and step + 1 in job.profile.steps  # which takes as long as it takes
        with profiler.step(step), contextlib.nullcontext() if is_profiled else PROGRESS.step(step):
            result = stepper.run(step, job.planted_percent)
        results.append(result)
        if stepper.ranks.rank == 0:
            emit(step_done(result))
        if not result.metrics.is_finite:
            break  # every rank has the same loss and norm, so every rank stops here
        done = step + 1
        is_due = job.save_interval > 0 and done % job.save_interval == 0
        if job.save is not None and (is_due or done == job.num_steps):
            _save(job, job.save, stepper, done, emit)
    return results


def _save(job: Job, folder: Path, stepper: Stepper, done: int, emit: Emit) -> None:
    started = time.monotonic()
    checkpoint.save(
        folder,
        done,
        job.recipe,
        stepper.ranks,
        stepper.model,
        stepper.optimizer,
        stepper.scheduler,
        job.corpus_digest,
        job.tokenizer_digest,
    )
    if stepper.ranks.rank == 0:
        emit(CheckpointSaved(folder, done, time.monotonic() - started))


def step_done(result: StepResult) -> StepDone:
    """What the running log says of a step."""
    return StepDone(result.metrics, result.seconds, measuring.peak_bytes()[0])

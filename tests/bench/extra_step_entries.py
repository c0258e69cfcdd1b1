"""Runs whose profiled step, taken once all is measured, goes wrong: entries for the launcher."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from grok1.device import measuring
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job
from grok1.training.result import RunMeasured, RunResult
from grok1.training.run import run_rank
from grok1.training.step import Stepper


def raise_on_rank_0(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    return _with_extra_step(_out_of_memory if where.rank == 0 else None, job, where, emit)


def raise_on_rank_1(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """The other rank waits for it in a collective."""
    return _with_extra_step(_out_of_memory if where.rank == 1 else None, job, where, emit)


def raise_on_rank_1_while_rank_0_is_slow(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Slow to hand over the result."""

    def slowly(event: Any) -> None:
        if isinstance(event, RunMeasured):
            time.sleep(1.0)
        emit(event)

    return _with_extra_step(_out_of_memory if where.rank == 1 else None, job, where, slowly)


def raise_everywhere(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    return _with_extra_step(_out_of_memory, job, where, emit)


def refuse_on_rank_1(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """With the kind of error that the launcher takes for the user's input."""
    return _with_extra_step(_refuse if where.rank == 1 else None, job, where, emit)


def die_on_rank_1(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    return _with_extra_step(_die if where.rank == 1 else None, job, where, emit)


def break_the_profiler_of_rank_0(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """The step itself goes well."""
    if where.rank == 0:
        measuring.profiler = _no_profiler  # type: ignore[assignment]
    return run_rank(job, where, emit)


def fail_in_the_run(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Before all is measured."""
    return _with_extra_step(_out_of_memory if where.rank == 1 else None, job, where, emit, job.num_steps - 1)


def _with_extra_step(
    instead: Callable[[], None] | None, job: Job, where: Rendezvous, emit: Any, after: int | None = None
) -> RunResult | None:
    taken = [0]
    step = Stepper.run

    def counted(stepper: Stepper, number: int, planted_percent: float = 0.0) -> Any:
        taken[0] += 1
        if instead is not None and taken[0] > (job.num_steps if after is None else after):
            instead()
        return step(stepper, number, planted_percent)

    Stepper.run = counted  # type: ignore[method-assign, assignment]
    return run_rank(job, where, emit)


def _out_of_memory() -> None:
    raise RuntimeError("out of memory\nin the middle of a step")


def _refuse() -> None:
    raise ValueError("no such step")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _no_profiler(*_unused: object) -> Any:
    raise RuntimeError("no profiler here")

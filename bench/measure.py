"""Launch glue: runs a case through grok1 and makes a record of what its ranks measured."""

from __future__ import annotations

import itertools
import math
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from bench.git import commit
from bench.host import host, lost_seconds, others_clock, others_cores, seconds_since, session
from bench.judge.void import dropped_pairs, lost_pairs
from bench.records.environment import allowed_environment
from bench.records.jsonfile import nonfinite_as_null
from bench.records.record import MAX_MODULES, MAX_SPANS_OF_RANK, Record
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.distributed.launch import LaunchError, RankFailedError, launch
from grok1.distributed.nodes import ONE_MACHINE, Nodes
from grok1.distributed.rendezvous import COLLECTIVE_SECONDS
from grok1.training.job import Job
from grok1.training.result import Event, RankSamples, RunMeasured, RunResult, Warned

_MAX_REASONS = 100  # what a record holds
_STARTED = datetime.now(timezone.utc)  # of this process: a benchmark that runs past midnight is one session
MAX_SPANS = 320_000  # of all ranks' timelines together: a record of more is too large to be read


def run(
    case: str,
    job: Job,
    device: Kind,
    nodes: Nodes = ONE_MACHINE,
    on_event: Callable[[Event], None] = lambda event: None,
    timeout_seconds: float = COLLECTIVE_SECONDS,
    asked: Sequence[str] = (),
) -> Record | None:
    """One run of a job as a record; None on the nodes that do not hold rank 0. `asked` is what the record says of it.

    Ranks that fail after the run was measured cost the record its modules and no more: a line on stderr says why.
    """
    watched = WatchedMachine()
    measured: list[RunMeasured] = []

    def note(event: Event) -> None:
        if isinstance(event, RunMeasured):
            measured.append(event)
        elif isinstance(event, Warned):
            _warn(f"{case}: {event.text}")
        else:
            on_event(event)

    try:
        result = launch(
            replace(job, times_modules=True),
            job.recipe,
            device,
            nodes,
            note,
            entry="grok1.training.run:run_rank",
            timeout_seconds=timeout_seconds,
            terms={"commit": commit()["sha"] or "", **job.terms()} if nodes.nnodes > 1 else None,
        )
    except (LaunchError, RankFailedError) as error:
        if not measured:
            raise
        _warn(f"{case}: no seconds by module, for the profiled step after the run failed: {_in_one_line(error)}")
        result = measured[0].result
    if result is None:
        return None
    return make_record(case, job, result, watched.host(), asked)


class WatchedMachine:
    """This machine, and what it lost to others since this was made."""

    def __init__(self) -> None:
        self._host, self._lost, self._others = host(), lost_seconds(), others_clock()

    def host(self) -> dict[str, Any]:
        """A record's host."""
        used = others_cores(self._others, others_clock())
        return {**self._host, **seconds_since(self._lost, lost_seconds()), "others_cores": used}


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _in_one_line(error: LaunchError | RankFailedError) -> str:
    """The last line of a traceback says what it was."""
    last = str(error).strip().splitlines()[-1]
    return f"rank {error.rank}: {last}" if isinstance(error, RankFailedError) else last


def make_record(case: str, job: Job, result: RunResult, machine: dict[str, Any], asked: Sequence[str] = ()) -> Record:
    """The record of one run, void when what it computed cannot be trusted; `machine` is the record's host."""
    reasons = void_reasons(job, result)
    content = content_of(case, job.recipe, result, machine, reasons)
    return Record.model_validate(content | {"planted_percent": job.planted_percent or None, "asked": list(asked)})


def content_of(
    case: str, recipe: Recipe, result: RunResult, machine: dict[str, Any], reasons: list[str]
) -> dict[str, Any]:
    """A record's fields, of a run that is void for these reasons."""
    return {
        "schema": 1,
        "id": uuid.uuid4().hex,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "case": case,
        "valid": not reasons,
        "void_reasons": reasons,
        "recipe": {"name": recipe.name, "hash": recipe.hash(), "resolved": recipe.resolved()},
        "layout": asdict(result.layout),
        "device": asdict(result.device),
        "software": result.software,
        "code_digests": result.code_digests,
        "commit": commit(),
        "environment": allowed_environment(os.environ),
        "host": machine,
        "session": session(_STARTED, os.environ),
        "work": work(recipe),
        "startup_seconds": result.startup_seconds,
        "steps": [nonfinite_as_null(step.as_json()) for step in result.steps],
        "ranks": [asdict(fitting(rank, len(result.ranks))) for rank in result.ranks],
        "expert_load": result.expert_load,
    }


def fitting(samples: RankSamples, num_ranks: int) -> RankSamples:
    """What a record has room for: the costliest modules, and the whole timeline or none, for half a step misleads."""
    has_room = len(samples.timeline) <= min(MAX_SPANS_OF_RANK, MAX_SPANS // num_ranks)
    return replace(
        samples,
        timeline=samples.timeline if has_room else [],
        modules_seconds=dict(itertools.islice(samples.modules_seconds.items(), MAX_MODULES)),
    )


def void_reasons(job: Job, result: RunResult) -> list[str]:
    """Why a run's times mean nothing: fast but wrong is not fast. The first hundred reasons."""
    reasons, steps = list(result.code_differences), result.steps
    if len(steps) < job.num_steps:
        reasons.append(f"{len(steps)} of {job.num_steps} steps ran")
    for step in steps:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(getattr(step, name)):
                reasons.append(f"step {step.step + 1}: {name.replace('_', ' ')} is not finite")
        if step.skipped:
            reasons.append(f"step {step.step + 1}: the optimizer skipped its update")
    pairs = len(steps) * job.recipe.tokens_per_step * job.recipe.model.experts_per_token
    reasons += lost_pairs(result.expert_load, pairs, dropped_pairs(steps))
    return reasons[:_MAX_REASONS]


def work(recipe: Recipe) -> dict[str, Any]:
    """What one step does, counted by the recipe itself."""
    return {
        "tokens_per_step": recipe.tokens_per_step,
        "model_flops_per_step": recipe.flops_per_step(),
        "num_micro_batches": recipe.num_micro_batches,
        "sequence_length": recipe.training.sequence_length,
        "global_batch": recipe.training.global_batch,
        "parameters_total": recipe.parameters(),
        "parameters_active": recipe.active_parameters(),
    }

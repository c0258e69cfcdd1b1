"""One rank of a job with real tensors, alone: what its own work takes, without waiting for anybody, as a record.

Its collectives go to torch's fake process group, which returns at once and copies what the rank itself holds. So the
numbers mean nothing, but every kernel of the whole job's step runs on tensors of the right shape, and its time is
real. Routers send their tokens as planned. What is left out is all communication, and the wait for other stages: the
job cannot be faster than this.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.measure import WatchedMachine, content_of
from bench.records.record import Record
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.distributed.launch import LaunchError, check_machine, launch
from grok1.distributed.rendezvous import FAKE_URL, Rendezvous
from grok1.training.result import CollectiveSamples, RankSamples, RunResult, StepDone

if TYPE_CHECKING:  # import torch
    from grok1.device.without_data import Transfers
    from grok1.training.planned_routing import RoutingPlan
    from grok1.training.step import Stepper


@dataclass(frozen=True)
class LoneJob:
    """Which rank of which job, for how many steps; each expert's share of the pairs, empty: all alike."""

    recipe: Recipe
    rank: int
    num_steps: int
    routing_shares: tuple[float, ...] = ()
    launched_at: float = 0.0  # seconds since the epoch


@dataclass(frozen=True)
class LoneRank:
    """A rank that is ready to step: what its pipeline sends and receives is counted, its routers do as planned."""

    stepper: Stepper
    transfers: Transfers
    routing: RoutingPlan


@dataclass(frozen=True)
class LoneResult:
    """What that rank measured; its operators in one more step, which was profiled, where the profiler says."""

    run: RunResult
    operators_seconds: float | None
    operator_calls: int | None


def run(case: str, job: LoneJob, device: Kind, on_event: Callable[[StepDone], None] = lambda event: None) -> Record:
    """Run the job's rank on this machine's first device.

    Raises:
        LaunchError, DeviceError: there is no such rank or routing, or it does not fit this device.
    """
    check(job)
    check_machine(job.recipe, device, 1)
    watched = WatchedMachine()
    timed = replace(job, launched_at=time.time())
    found: LoneResult = launch(timed, starter(), device, on_event=on_event, entry="bench.lone_rank:run_rank")
    return record_of(case, job, found, watched)


def starter() -> Recipe:
    """What a lone rank is launched as: one process, whatever its job has."""
    return load_recipe("grok1-nano", [*ONE_RANK, "training.global_batch=1"])


def check(job: LoneJob) -> None:
    """Refuse a rank or a routing that the job does not have."""
    ranks, experts = job.recipe.parallel.world_size, job.recipe.model.num_experts
    if not 0 <= job.rank < ranks:
        raise LaunchError(f"--rank {job.rank}: the recipe has ranks 0 to {ranks - 1}")
    shares, most = job.routing_shares, 1 / job.recipe.model.experts_per_token
    if not shares:
        return
    if len(shares) != experts or abs(sum(shares) - 1.0) > 1e-6:
        raise LaunchError(f"--routing has {len(shares)} shares that sum to {sum(shares):g}, not {experts} of 1 in all")
    wrong = [share for share in shares if not 0 < share <= most]
    if wrong:
        raise LaunchError(
            f"--routing {wrong[0]:g}: a share is above 0, as the fake process group brings nothing to a rank that "
            f"sends nothing, and at most {most:g}, as no token goes to one expert twice"
        )


def record_of(case: str, job: LoneJob, found: LoneResult, watched: WatchedMachine) -> Record:
    """A record of the rank alone, void where its numbers stopped being finite."""
    reasons = found.run.code_differences + [
        f"step {step.step + 1}: the gradient norm is not finite, and kernels may be faster on such numbers"
        for step in found.run.steps
        if not step.is_finite
    ]
    reasons += [f"step {step.step + 1}: the optimizer skipped its update" for step in found.run.steps if step.skipped]
    content = content_of(case, job.recipe, found.run, watched.host(), reasons[:100])
    content["lone_rank"] = {"rank": job.rank, "routing_shares": list(job.routing_shares)}
    for step in content["steps"]:
        step |= {"loss": None, "aux_loss": None, "z_loss": None, "grad_norm": None, "dropped_pairs": None}
    for samples in content["ranks"]:
        samples |= {"operators_seconds": found.operators_seconds, "operator_calls": found.operator_calls}
    return Record.model_validate(content)


@contextmanager
def stepping(job: LoneJob, where: Rendezvous) -> Iterator[LoneRank]:
    """Make this process the job's rank, alone and ready to step; what its pipeline sends and receives is counted."""
    from grok1.device.without_data import noise_received
    from grok1.distributed.groups import joined
    from grok1.training.assembly import build_stepper
    from grok1.training.fake_step import FakeBatches
    from grok1.training.planned_routing import Routing, RoutingPlan

    recipe = job.recipe
    routing = Routing(job.routing_shares) if job.routing_shares else Routing.balanced(recipe.model.num_experts)
    plan = RoutingPlan(recipe, routing)
    with joined(alone(job, where), recipe.parallel, recipe.training.seed) as ranks, noise_received() as transfers:
        batches = FakeBatches(recipe, ranks.context)
        yield LoneRank(build_stepper(recipe, ranks, batches, prepare=plan.apply), transfers, plan)


def alone(job: LoneJob, where: Rendezvous) -> Rendezvous:
    """A meeting of that rank with nobody, on one machine that has room for all."""
    ranks = job.recipe.parallel.world_size
    return replace(where, url=FAKE_URL, rank=job.rank, world_size=ranks, ranks_per_node=ranks)


def run_rank(job: LoneJob, where: Rendezvous, emit: Callable[[StepDone], None]) -> LoneResult:
    """In a process of its own."""
    from grok1.device import software
    from grok1.training.gathering import device_used, layout_used, samples_of
    from grok1.training.profiling import profiled_step
    from grok1.training.run import step_done

    with stepping(job, where) as rank:
        stepper = rank.stepper
        code = software.sources()
        startup_seconds = time.time() - job.launched_at
        results = []
        for step in range(job.num_steps):
            results.append(stepper.run(step))
            emit(step_done(results[-1]))
        measured = with_transfers(samples_of(stepper, results), rank.transfers.counted)
        profile = profiled_step(stepper.model, functools.partial(stepper.run, job.num_steps - 1))
        result = RunResult(
            steps=[each.metrics for each in results],
            ranks=[replace(measured, modules_seconds=profile.modules)],
            expert_load=[],  # planned, not learned
            startup_seconds=startup_seconds,
            layout=layout_used(job.recipe, alone(job, where)),
            device=device_used(job.recipe),
            software=software.versions() | software.commits(),
            code_digests=code,
            code_differences=software.edited(code, software.sources()),
        )
    kernels = [use for name, use in profile.operators.items() if is_operator(name, result.device.kind)]
    if not kernels:
        return LoneResult(result, None, None)
    return LoneResult(result, sum(use.seconds for use in kernels), sum(use.calls for use in kernels))


def with_transfers(samples: RankSamples, counted: Mapping[str, tuple[int, int]]) -> RankSamples:
    """With the pipeline's sends and receives beside the collectives; their seconds are the pipeline phase's."""
    nothing = [0.0] * len(samples.step_seconds)
    transfers = {f"pipeline {name}": CollectiveSamples(nothing, *of) for name, of in sorted(counted.items())}
    return replace(samples, collectives=samples.collectives | transfers)


def is_operator(name: str, device_kind: str) -> bool:
    """Whether a profiled event is an operator. Off the CPU all are: what is no kernel takes no time there."""
    return device_kind != "cpu" or ("::" in name and not name.startswith("autograd::"))

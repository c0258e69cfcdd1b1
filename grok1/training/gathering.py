"""Gathers the whole job's result on rank 0 from the steps of every rank."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, replace

import psutil
import torch.distributed as dist

from grok1.config.recipe import Recipe
from grok1.device import measuring, software
from grok1.device.kind import device_kind
from grok1.device.traffic import Communication
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.profiling import profiled_modules
from grok1.training.result import (
    CollectiveSamples,
    DeviceUsed,
    Emit,
    LayoutUsed,
    ModuleSeconds,
    PhaseSpan,
    RankSamples,
    RunMeasured,
    RunResult,
    Warned,
)
from grok1.training.step import Stepper, StepResult
from grok1.training.timers import PHASES

Code = dict[str, str]  # digests and versions by name
_COMPARED = ("torch", "torch-npu", "numpy")  # between nodes; megatron and MindSpeed by their sources
ExpertLoad = dict[int, list[int]]  # tokens of each expert, by layer
_Modules = tuple[dict[str, ModuleSeconds], str | None]  # seconds by module, and what went wrong with the profiler


def gather_result(
    where: Rendezvous, stepper: Stepper, results: Sequence[StepResult], startup_seconds: float, code: Code
) -> RunResult | None:
    """The whole job's measurements on rank 0, None on the others. All ranks must call it.

    `code` are the digests of rank 0's sources (grok1.device.software.sources) from before the first step.
    """
    load, mine = stepper.expert_load.drain(), samples_of(stepper, results)
    gathered: list[tuple[RankSamples, ExpertLoad, Code | None] | None] = [None] * where.world_size
    dist.all_gather_object(gathered, (mine, load, _code(where, stepper.recipe)))
    if stepper.ranks.rank != 0:
        return None
    told = [each for each in gathered if each is not None]
    return RunResult(
        steps=[result.metrics for result in results],
        ranks=[samples for samples, _, _ in told],
        expert_load=_summed_load(stepper.recipe, [load for _, load, _ in told]),
        startup_seconds=startup_seconds,
        layout=layout_used(stepper.recipe, where),
        device=device_used(stepper.recipe),
        software=software.versions() | software.commits(),
        code_digests=code,
        code_differences=software.edited(code, software.sources())
        + software.node_differences(
            {rank // where.ranks_per_node: each for rank, (_, _, each) in enumerate(told) if each is not None}
        ),
    )


def samples_of(stepper: Stepper, results: Sequence[StepResult]) -> RankSamples:
    """What this rank measured in these steps."""
    timeline = [PhaseSpan(phase, start, end) for start, end, phase in stepper.timeline()]
    peak_bytes, reserved_bytes = measuring.peak_bytes()
    return RankSamples(
        rank=stepper.ranks.rank,
        stage=stepper.ranks.pipeline,
        step_seconds=[result.seconds for result in results],
        phases_seconds={phase: [result.phase_seconds[phase] for result in results] for phase in PHASES},
        communication_seconds=[sum((each.seconds for each in calls), 0.0) for calls in _calls(results)],
        communication_calls=[sum(each.calls for each in calls) for calls in _calls(results)],
        communication_bytes=[sum(each.bytes for each in calls) for calls in _calls(results)],
        collectives=collective_samples(results),
        timeline=timeline,
        peak_bytes=peak_bytes,
        reserved_bytes=reserved_bytes,
        host_bytes=int(psutil.Process().memory_info().rss),
        memory_bytes=[result.memory_bytes for result in results],
    )


def device_used(recipe: Recipe) -> DeviceUsed:
    """This process's processor, for the recipe's number format."""
    return DeviceUsed(**asdict(measuring.describe()), dtype=recipe.training.dtype)


def _code(where: Rendezvous, recipe: Recipe) -> Code | None:
    """What runs on this node, told by its first rank, so that rank 0 can compare; nothing to compare on one node."""
    if where.local_rank:
        return None
    if where.world_size == where.ranks_per_node:
        return {}
    return {"recipe": recipe.hash()} | software.sources() | software.versions(_COMPARED)


def with_modules(
    where: Rendezvous, stepper: Stepper, results: Sequence[StepResult], result: RunResult | None, emit: Emit
) -> RunResult | None:
    """The result, with the last step taken once more and profiled to split its time by module. All ranks must call it.

    The result is out of the ranks' hands before the step begins: the first rank of each node emits it, and all wait for
    that. So the step may fail, on any rank and however it likes, and the run is not lost: the launcher ends the ranks.
    A profiler that fails is not the step: its rank has no modules, and rank 0 says why.
    """
    # torch_npu's profiler says nothing of single operators until its files are parsed
    if device_kind() == "npu" or not results or not results[-1].metrics.is_finite:
        return result
    if where.local_rank == 0:
        emit(RunMeasured(result))
    dist.barrier()
    mine = _module_seconds(where, stepper, results[-1].metrics.step)
    gathered: list[_Modules | None] = [None] * where.world_size
    dist.all_gather_object(gathered, mine)
    if result is None:
        return None
    told = [each for each in gathered if each is not None]
    for rank, (_, trouble) in enumerate(told):
        if trouble is not None:
            emit(Warned(f"rank {rank} has no seconds by module: {trouble}"))
    ranks = [replace(samples, modules_seconds=told[samples.rank][0]) for samples in result.ranks]
    return replace(result, ranks=ranks)


def collective_samples(results: Sequence[StepResult]) -> dict[str, CollectiveSamples]:
    """By kind of collective; a kind takes no time in a step where it does not occur."""
    nothing = Communication()
    by_name = {
        name: [result.collectives.get(name, nothing) for result in results]
        for name in dict.fromkeys(name for result in results for name in result.collectives)
    }
    return {
        name: CollectiveSamples(
            seconds=[each.seconds for each in steps],
            calls=sum(each.calls for each in steps),
            bytes=sum(each.bytes for each in steps),
        )
        for name, steps in by_name.items()
    }


def _calls(results: Sequence[StepResult]) -> list[list[Communication]]:
    """All collectives of each step."""
    return [list(result.collectives.values()) for result in results]


def _module_seconds(where: Rendezvous, stepper: Stepper, step: int) -> _Modules:
    """Seconds by module of one more step, on the first rank of each pipeline stage. The step's results are dropped."""
    take_step = functools.partial(stepper.run, step)
    if not stepper.ranks.is_first_of_stage:
        take_step()
        return {}, None
    return profiled_modules(stepper.model, take_step)


def layout_used(recipe: Recipe, where: Rendezvous) -> LayoutUsed:
    """How the job is split, and over how many machines."""
    parallel = recipe.parallel
    return LayoutUsed(
        world_size=where.world_size,
        tensor=parallel.tensor,
        context=parallel.context,
        virtual_pipeline=parallel.virtual_pipeline,
        pipeline=parallel.pipeline,
        expert=parallel.expert,
        expert_tensor=parallel.expert_tensor,
        data=parallel.data,
        nodes=where.world_size // where.ranks_per_node,
        ranks_per_node=where.ranks_per_node,
    )


def _summed_load(recipe: Recipe, loads: Sequence[ExpertLoad]) -> list[list[int]]:
    """Tokens [layers, experts], summed over the ranks that route different tokens."""
    total = [[0] * recipe.model.num_experts for _ in range(recipe.model.num_layers)]
    for load in loads:
        for layer, counts in load.items():
            total[layer] = [a + int(b) for a, b in zip(total[layer], counts, strict=True)]
    return total

"""What a rank does in the conformance run: each case's steps, and what is to be compared of them."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from conformance_run.plan import Plan
from grok1.config.recipe import Recipe
from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import Ranks, group_names
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.step import Stepper, StepResult
from grok1.weights.sharding import gather_weights

# operations of torch's that an older name also gives
_SAME = {"_all_gather_base": "all_gather_into_tensor", "_reduce_scatter_base": "reduce_scatter_tensor"}


def run_plan(plan: Plan, where: Rendezvous, emit: Callable[[object], None]) -> dict[str, Any]:
    """The cases' figures by name; a case that fails ends the job, as all ranks must go on together."""
    return {
        name: _run_case(recipe, plan, replace(where, url=f"{where.url}-{name}"), emit)
        for name, recipe in plan.recipes.items()
    }


def _run_case(recipe: Recipe, plan: Plan, where: Rendezvous, emit: Callable[[object], None]) -> dict[str, Any]:
    job = Job(recipe, plan.num_steps, plan.data_prefix, plan.tokenizer_path, launched_at=time.time())
    kernels = _kernel_calls()
    kernels.clear()
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(recipe, ranks, batches)
        dist.barrier()
        TRAFFIC.forget()
        results, differing = [], []
        for step in range(plan.num_steps):
            results.append(stepper.run(step))
            is_last = step + 1 == plan.num_steps
            if is_last:
                gather_weights(stepper.model)
            are_whole = is_last or recipe.kernels.param_gather == "at_end"  # else the next forward gathers them
            differing.append(_differing_replicas(stepper, ranks) if are_whole else [])
        figures = {
            "losses": [each.metrics.loss for each in results],
            "aux_losses": [each.metrics.aux_loss for each in results],
            "grad_norms": [each.metrics.grad_norm for each in results],
            "differing_replicas": differing,
            "collectives": _gathered_collectives(results),
            "group_sizes": {name: group.size() for group, name in group_names().items() if group is not None},
            "kernels": dict(kernels),
            "classes": sorted({type(each).__module__ + "." + type(each).__name__ for each in stepper.model.modules()}),
        }
    if where.rank == 0:
        emit(f"{recipe.name}: {figures['losses']}")
    return figures


def _kernel_calls() -> dict[str, int]:
    """How often each of the stand-in's kernels ran on this rank, where there is a stand-in."""
    module = sys.modules.get("torch_npu.kernels")
    return module.CALLS if module is not None else {}


def _differing_replicas(stepper: Stepper, ranks: Ranks) -> list[str]:
    """Parameters whose bytes are not the same on all ranks that hold a copy: dense ones, then experts'."""
    mine = {
        (name, _owners(parameter, ranks)): _digest(parameter) for name, parameter in stepper.model.named_parameters()
    }
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, mine)
    TRAFFIC.forget()
    found: dict[Any, str] = {}
    differing = {key[0] for each in gathered for key, value in each.items() if found.setdefault(key, value) != value}
    return sorted(differing)


def _owners(parameter: torch.nn.Parameter, ranks: Ranks) -> tuple[int, ...]:
    """The coordinates that replicas share: megatron marks an expert's parameters `allreduce = False`."""
    if getattr(parameter, "allreduce", True):
        return (0, ranks.pipeline, ranks.tensor)
    return (1, ranks.pipeline, ranks.expert, ranks.expert_tensor)


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _gathered_collectives(results: list[StepResult]) -> list[dict[str, list[int]]]:
    """Of each rank: calls and bytes of each kind of collective, all steps together."""
    mine: dict[str, list[int]] = {}
    for result in results:
        for name, calls in result.collectives.items():
            group, _, operation = name.rpartition(" ")
            sums = mine.setdefault(f"{group} {_SAME.get(operation, operation)}", [0, 0])
            sums[0] += calls.calls
            sums[1] += calls.bytes
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered

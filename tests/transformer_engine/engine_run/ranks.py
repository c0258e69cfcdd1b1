"""What a rank does: each case's steps without Transformer Engine's parts and with them, and what is to be compared."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine_run.cases import STEPS
from grok1.config.recipe import Recipe
from grok1.distributed.groups import Ranks
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.step import Stepper
from grok1.weights.sharding import gather_published

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """Pairs of recipes by name, without Transformer Engine's parts and with them, and the corpus."""

    pairs: dict[str, tuple[Recipe, Recipe]]
    prefix: Path
    tokenizer: Path
    folder: Path  # for checkpoints


def run_plan(plan: Plan, where: Rendezvous, _emit: Callable[[object], None]) -> dict[str, dict[str, Any]]:
    """The cases' figures by name."""
    return {name: _compared(plan, name, where) for name in plan.pairs}


def _compared(plan: Plan, name: str, where: Rendezvous) -> dict[str, Any]:
    results = []
    for turn, recipe in enumerate(plan.pairs[name]):
        calls = _calls()
        calls.clear()
        figures, before, after = _run(recipe, plan, replace(where, url=f"{where.url}-{name}-{turn}"))
        figures["functions"] = sorted(calls)
        results.append((figures, before, after))
    (plain, start, expected), (engine, same_start, found) = results
    if where.rank == 0:
        assert all(torch.equal(start[key], same_start[key]) for key in start)
        engine["updates"] = {key: _error(found[key], expected[key], start[key]) for key in start}
    return {"plain": plain, "engine": engine}


def _error(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> float:
    """Of what the steps changed in a weight: its difference from the expected change, by 2-norms."""
    difference = float((found.float() - expected.float()).norm())
    return difference / float((expected.float() - start.float()).norm()) if difference else 0.0


def _run(recipe: Recipe, plan: Plan, where: Rendezvous) -> tuple[dict[str, Any], Weights, Weights]:
    job = Job(recipe, STEPS, plan.prefix, plan.tokenizer, launched_at=time.time())
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(recipe, ranks, batches)
        before = _weights(stepper, recipe, ranks)
        metrics = [stepper.run(step).metrics for step in range(STEPS)]
        figures = {name: [getattr(each, name) for each in metrics] for name in ("loss", "aux_loss", "grad_norm")} | {
            "optimizer": type(_inner(stepper)).__name__,
            "classes": sorted({type(each).__name__ for each in stepper.model.modules()}),
        }
        return figures, before, _weights(stepper, recipe, ranks)


def _weights(stepper: Stepper, recipe: Recipe, ranks: Ranks) -> Weights:
    gathered = gather_published(stepper.model, recipe, ranks, lambda parameter: parameter)
    return {key: weight.clone() for key, weight in gathered.items()} if ranks.rank == 0 else {}


def _inner(stepper: Stepper) -> object:
    optimizer: Any = stepper.optimizer
    return getattr(optimizer, "chained_optimizers", [optimizer])[0].optimizer


def _calls() -> set[str]:
    """Which of the stand-in's functions and of Triton's kernels have run, where there is a stand-in."""
    module = sys.modules.get("transformer_engine_torch")
    found: set[str] = module.CALLS if module is not None else set()
    return found

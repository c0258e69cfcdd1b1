"""What a rank does to see which experts read whose checkpoints."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine_run.ranks import Plan
from grok1.config.recipe import Recipe
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import build_model
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.run import run_rank
from grok1.weights import checkpoint
from grok1.weights.folder import StoredCheckpoint
from grok1.weights.sharding import gather_published

_STEPS = 4
_SIDES = ("plain", "engine")


def run_checkpoints(plan: Plan, where: Rendezvous, emit: Callable[[object], None]) -> dict[str, Any]:
    """Losses of a whole and of a resumed run, digests of loaded weights, and refusals."""
    recipes = dict(zip(_SIDES, plan.pairs["experts"], strict=True))
    turns = iter(range(100))

    def again() -> Rendezvous:
        return replace(where, url=f"{where.url}-{next(turns)}")

    def losses(recipe: Recipe, steps: int, **settings: Any) -> list[float]:
        job = Job(recipe, steps, plan.prefix, plan.tokenizer, launched_at=time.time(), **settings)
        result = run_rank(job, again(), emit)
        return [] if result is None else [step.loss for step in result.steps]

    folder = plan.folder
    found: dict[str, Any] = {"weights": {}, "refusals": {}, "whole": losses(recipes["engine"], _STEPS)}
    for side, other in (_SIDES, _SIDES[::-1]):
        losses(recipes[side], 2, save=folder / side)
        found["weights"][side] = {each: _loaded(folder / side, recipes[each], again()) for each in _SIDES}
        try:
            StoredCheckpoint.open(folder / side).check_resumable(recipes[other])
        except ValueError as error:
            found["refusals"][side] = str(error)
    found["trained"] = _trained(plan, recipes["engine"], again())
    found["resumed"] = losses(recipes["engine"], _STEPS, load=folder / "engine")
    return found


def _trained(plan: Plan, recipe: Recipe, where: Rendezvous) -> dict[str, str]:
    """The weights after two steps."""
    job = Job(recipe, 2, plan.prefix, plan.tokenizer, launched_at=time.time())
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(recipe, ranks, batches)
        for step in range(2):
            stepper.run(step)
        return _digests(stepper.model, recipe, ranks)


def _loaded(folder: Path, recipe: Recipe, where: Rendezvous) -> dict[str, str]:
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        model: Any = build_model(recipe, ranks)
        stored = StoredCheckpoint.open(folder)
        checkpoint.load_weights(stored, model)
        return _digests(model, recipe, ranks)


def _digests(model: torch.nn.Module, recipe: Recipe, ranks: Ranks) -> dict[str, str]:
    weights = gather_published(model, recipe, ranks, lambda parameter: parameter)
    return {key: hashlib.sha256(each.numpy().tobytes()).hexdigest() for key, each in weights.items()}

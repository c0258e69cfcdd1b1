"""What a rank does: trials one after the other in the same ranks, each trained for two steps and gathered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from grok1.config.recipe import Recipe
from grok1.data.batches import Batch, of_context_rank
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import gather_gradients
from grok1.training.assembly import build_stepper
from grok1.training.step import Stepper
from grok1.weights.sharding import gather_published, gather_weights
from tests.grok1.kernels.expert_entries import with_package
from tests.layouts.plan import Trial

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trained:
    """What a trial computed: the first batch's gradients, then each step's figures, and the weights at the end."""

    losses: list[float]
    aux_losses: list[float]
    z_losses: list[float]
    dropped_pairs: list[int]
    grad_norms: list[float]
    gradients: Tensors
    weights: Tensors  # after the steps
    differing_replicas: list[str]


@dataclass(frozen=True)
class Errors:
    """The largest differences from one rank's figures, each relative."""

    trial: str
    loss: float  # of loss, aux loss and z-loss
    dropped_pairs: list[int]  # of each step, and as many on one rank
    grad_norm: float
    gradient: float
    gradient_name: str
    weight: float
    differing_replicas: list[str]


def run_trials(trials: list[Trial], where: Rendezvous, emit: Callable[[object], None]) -> list[Errors]:
    """The trials' errors on rank 0, which computes what one rank gives."""
    found: list[Errors] = []
    alone: dict[str, Trained] = {}
    for number, trial in enumerate(trials):
        if where.rank == 0:
            emit(trial.name)
        ours = _train(trial.recipe, trial.stock, trial.steps, replace(where, url=f"{where.url}-{number}"))
        if where.rank == 0:
            found.append(_errors(trial, ours, _alone(trial, alone, where, number)))
    return found


def _alone(trial: Trial, known: dict[str, Trained], where: Rendezvous, number: int) -> Trained:
    recipe = trial.on_one_rank
    key = f"{trial.steps} {recipe.model_dump_json()}"
    if key not in known:
        own = replace(where, url=f"{where.url}-alone-{number}", rank=0, world_size=1, local_rank=0)
        known[key] = _train(recipe, True, trial.steps, own)
    return known[key]


def _train(recipe: Recipe, stock: bool, num_steps: int, where: Rendezvous) -> Trained:
    with with_package(), joined(where, recipe.parallel, recipe.training.seed) as ranks:
        stepper = build_stepper(recipe, ranks, RandomTokens(recipe, ranks), stock=stock)
        losses = stepper.accumulate(RandomTokens(recipe, ranks).step(0))
        stepper.reduce_losses(losses)  # else megatron would add these auxiliary losses to the first step's
        gather_gradients(stepper.model)
        gradients = _gather(stepper, ranks, lambda weight: weight.main_grad)  # type: ignore[attr-defined]
        steps = [stepper.run(step).metrics for step in range(num_steps)]
        gather_weights(stepper.model)
        return Trained(
            losses=[step.loss for step in steps],
            aux_losses=[step.aux_loss for step in steps],
            z_losses=[step.z_loss or 0.0 for step in steps],
            dropped_pairs=[step.dropped_pairs or 0 for step in steps],
            grad_norms=[step.grad_norm for step in steps],
            gradients=gradients,
            weights=_gather(stepper, ranks, lambda weight: weight),
            differing_replicas=_differing_replicas(stepper, ranks),
        )


class RandomTokens:
    """Samples that depend on the step and their place in the global batch alone, in the order of grok1.data.batches."""

    def __init__(self, recipe: Recipe, ranks: Ranks) -> None:
        self._recipe, self._ranks = recipe, ranks

    def step(self, step: int) -> list[Batch]:
        """This replica's micro-batches of one sample."""
        replicas = self._recipe.parallel.data
        return [
            self._sample(step, micro * replicas + self._ranks.data) for micro in range(self._recipe.num_micro_batches)
        ]

    def _sample(self, step: int, place: int) -> Batch:
        length = self._recipe.training.sequence_length
        generator = torch.Generator().manual_seed(1000 * step + place)
        text = torch.randint(self._recipe.model.vocab_size, (1, length + 1), generator=generator)
        batch = {"tokens": text[:, :-1], "labels": text[:, 1:], "position_ids": torch.arange(length)[None]}
        return of_context_rank(batch, self._recipe.parallel.context, self._ranks.context)


def _gather(stepper: Stepper, ranks: Ranks, value: Callable[[torch.nn.Parameter], torch.Tensor]) -> Tensors:
    return gather_published(stepper.model, stepper.recipe, ranks, value)


def _differing_replicas(stepper: Stepper, ranks: Ranks) -> list[str]:
    """Weights whose bytes are not the same on all ranks that hold a copy."""
    mine = {
        (name, _owners(name, ranks)): hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()
        for name, weight in stepper.model.named_parameters()
    }
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, mine)
    found: dict[Any, str] = {}
    return sorted({key[0] for each in gathered for key, value in each.items() if found.setdefault(key, value) != value})


def _owners(name: str, ranks: Ranks) -> tuple[int, ...]:
    """The coordinates that replicas share. Of a weight that is not split, each tensor rank's is held apart."""
    if ".experts." in name:
        return (ranks.pipeline, ranks.expert, ranks.expert_tensor)
    return (ranks.pipeline, ranks.tensor)


def _errors(trial: Trial, ours: Trained, alone: Trained) -> Errors:
    gradients = _relative(ours.gradients, alone.gradients)
    weights = _relative(ours.weights, alone.weights)
    worst = max(gradients, key=lambda name: gradients[name])
    return Errors(
        trial=trial.name,
        loss=max(
            _apart(ours.losses, alone.losses),
            _apart(ours.aux_losses, alone.aux_losses),
            _apart(ours.z_losses, alone.z_losses),
        ),
        dropped_pairs=ours.dropped_pairs if ours.dropped_pairs == alone.dropped_pairs else [],
        grad_norm=_apart(ours.grad_norms, alone.grad_norms),
        gradient=gradients[worst],
        gradient_name=worst,
        weight=max(weights.values()),
        differing_replicas=ours.differing_replicas,
    )


def _apart(ours: list[float], alone: list[float]) -> float:
    return max(
        0.0 if mine == theirs == 0.0 else _number(abs(mine / theirs - 1))
        for mine, theirs in zip(ours, alone, strict=True)
    )


def _relative(ours: Tensors, alone: Tensors) -> dict[str, float]:
    """Of each tensor, the largest difference over the largest value."""
    return {
        name: _number(float((ours[name] - value).abs().max() / value.abs().max().clamp_min(1e-30)))
        for name, value in alone.items()
    }


def _number(error: float) -> float:
    return error if error == error else float("inf")  # not a number is worse than any number


def run_without_marks(trials: list[Trial], where: Rendezvous, emit: Callable[[object], None]) -> list[Errors]:
    """The same, with experts as megatron marks them."""
    with patch("grok1.model.model.mark_experts_apart", lambda model: None):
        return run_trials(trials, where, emit)

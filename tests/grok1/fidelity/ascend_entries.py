"""What a launched model did in its first steps, as an entry for the launcher: plain arrays to hold a reference to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.data.batches import Batches
from grok1.data.samples import training_samples
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import gather_gradients, unwrapped
from grok1.training.assembly import build_stepper
from grok1.training.job import Job
from grok1.training.step import Stepper
from grok1.weights.sharding import gather_published

Arrays = dict[str, np.ndarray]  # tensors would travel as file descriptors, which end with their process


def run_steps(job: Job, where: Rendezvous, _emit: Any) -> dict[str, Any] | None:
    """Gradients of the first batch, then `job.num_steps` steps; rank 0 returns all that a reference can check."""
    schedule = job.recipe.training.model_copy(update={"decay_steps": job.num_steps})
    few_steps = job.recipe.model_copy(update={"training": schedule})  # the order of samples that the tests know
    if where.rank == 0:  # the sample index must exist before the ranks meet
        training_samples(few_steps, job.data_prefix, job.tokenizer_path)
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        dataset = training_samples(few_steps, job.data_prefix, job.tokenizer_path)
        batches = Batches(job.recipe, ranks, dataset)
        stepper = build_stepper(job.recipe, ranks, batches)
        model = stepper.model
        result: dict[str, Any] = {"initial": _gather(model, job.recipe, ranks, lambda weight: weight)}
        result |= _first_batch(job.recipe, ranks, stepper, batches)
        steps = [stepper.run(step) for step in range(job.num_steps)]
        for name in ("loss", "aux_loss", "grad_norm", "learning_rate"):
            result[name] = [getattr(step.metrics, name) for step in steps]
        result["final"] = _gather(model, job.recipe, ranks, lambda weight: weight)
        result["samples"] = _samples(dataset, job.num_steps * job.recipe.training.global_batch)
        return result if ranks.rank == 0 else None


def _first_batch(recipe: Recipe, ranks: Ranks, stepper: Stepper, batches: Batches) -> dict[str, Any]:
    """Gradients and logits of step 0's batch, without an update."""
    model = stepper.model
    grok, kept = unwrapped(model), list[Tensor]()
    grok.kept_logits = kept
    losses = stepper.accumulate(batches.step(0))
    grok.kept_logits = None
    stepper.reduce_losses(losses)  # else megatron would add these auxiliary losses to the first step's
    gather_gradients(model)
    return {
        "gradients": _gather(model, recipe, ranks, lambda weight: weight.main_grad),  # type: ignore[attr-defined]
        "logits": _gather_logits(recipe, ranks, kept),
    }


def _gather(
    model: torch.nn.Module, recipe: Recipe, ranks: Ranks, value: Callable[[torch.nn.Parameter], Tensor]
) -> Arrays:
    return {name: whole.numpy() for name, whole in gather_published(model, recipe, ranks, value).items()}


def _gather_logits(recipe: Recipe, ranks: Ranks, kept_SBv: list[Tensor]) -> list[np.ndarray]:
    """Each micro-batch's logits [B, S, V], in the order of the samples."""
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, (ranks.data, ranks.tensor, [logits.numpy() for logits in kept_SBv]))
    parts = {(data, tensor): logits for data, tensor, logits in gathered if logits}
    wholes = []
    for micro in range(recipe.num_micro_batches):
        for data in range(recipe.parallel.data):
            columns = [parts[data, tensor][micro] for tensor in range(recipe.parallel.tensor)]
            wholes.append(np.concatenate(columns, axis=-1).swapaxes(0, 1))
    return wholes


def _samples(dataset: Any, count: int) -> Arrays:
    """Tokens and labels [count, S], in the order in which steps take them."""
    samples = [dataset[index] for index in range(count)]
    return {name: np.stack([sample[name].numpy() for sample in samples]) for name in ("tokens", "labels")}

"""Assembles a job on one rank: process groups, data, model, optimizer, stepper. Training and benchmarks share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from grok1.config.recipe import Recipe
from grok1.data.batches import Batches, BatchSource
from grok1.data.samples import training_samples
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import build_model
from grok1.training.job import Job
from grok1.training.optimizer import build_optimizer
from grok1.training.step import Stepper
from grok1.training.timers import PhaseTimers
from grok1.weights.chunks import Chunks


@contextmanager
def joined_with_data(job: Job, where: Rendezvous) -> Iterator[tuple[Ranks, Batches]]:
    """Join the job; gives this rank's place in it and its micro-batches of the corpus, for any number of steps."""
    recipe = job.recipe
    open_samples = partial(
        training_samples, recipe, job.data_prefix, job.tokenizer_path, job.index_cache, job.corpus_digest
    )
    # the sample index must exist before the ranks meet: the first rank of each node finds it or builds it
    samples = open_samples() if where.local_rank == 0 else None
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        yield ranks, Batches(recipe, ranks, open_samples(is_first=False) if samples is None else samples)


def build_stepper(
    recipe: Recipe,
    ranks: Ranks,
    batches: BatchSource,
    *,
    prepare: Callable[[Chunks], None] = lambda model: None,
    timers: PhaseTimers | None = None,
    with_values: bool = True,
    stock: bool = False,
    core_attention: type | None = None,
) -> Stepper:
    """Model, optimizer and schedule of this rank, ready to step.

    `prepare` gets the model before the optimizer is built, because the optimizer copies the weights that it finds.
    `with_values=False` leaves the weights uninitialised. For comparisons: `stock` leaves megatron's objects as megatron
    makes them, and `core_attention` is a megatron module to use in place of ours.
    """
    model = build_model(recipe, ranks, with_values, stock=stock, core_attention=core_attention)
    prepare(model)
    optimizer, scheduler = build_optimizer(model, recipe.training, stock=stock)
    return Stepper(recipe, ranks, model, optimizer, scheduler, batches, timers)

"""A checkpoint's weights, loaded by ranks of any layout, as an entry for the launcher."""

from __future__ import annotations

from typing import Any

import numpy as np

from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import build_model
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.run import run_rank
from grok1.weights import checkpoint
from grok1.weights.folder import StoredCheckpoint
from grok1.weights.sharding import gather_published
from tests.grok1.opened_files import opened_below


def loaded_weights(job: Job, where: Rendezvous, _emit: Any) -> dict[str, np.ndarray[Any, Any]] | None:
    """All weights under published names, gathered on rank 0 after each rank loaded its part."""
    assert job.load is not None
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        model: Any = build_model(job.recipe, ranks)
        stored = StoredCheckpoint.open(job.load)
        stored.check_model(job.recipe, "use the recipe it was written with")
        checkpoint.load_weights(stored, model)
        weights = gather_published(model, job.recipe, ranks, lambda parameter: parameter)
        # as arrays: a tensor would travel as a handle, which ends with its process
        return {key: weight.numpy() for key, weight in weights.items()} if ranks.rank == 0 else None


def opened_by_resuming(job: Job, where: Rendezvous, emit: Any) -> dict[str, int]:
    """How often a run that resumes opens each file of its checkpoint's folder."""
    assert job.load is not None
    with opened_below(job.load) as counts:
        run_rank(job, where, emit)
    return dict(counts)


def refusals_of_loading(job: Job, where: Rendezvous, _emit: object) -> dict[str, str]:
    """What loading says of each folder of checkpoints below `job.load`, as training would load it."""
    assert job.load is not None
    refusals = {}
    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(job.recipe, ranks, batches)
        for folder in sorted(job.load.iterdir()):
            try:
                checkpoint.load(
                    folder, job.recipe, stepper.model, stepper.optimizer, stepper.scheduler, job.allowed_changes
                )
            except ValueError as error:
                refusals[folder.name] = str(error)
    return refusals

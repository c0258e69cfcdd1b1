"""The ledger's meter on ranks that really compute and communicate, as an entry for the launcher."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from bench.ledger.count import rank_ledger
from bench.ledger.extension import run_in_full
from bench.ledger.marked_phases import MarkedPhases
from bench.ledger.meter import Meter
from grok1.config.stages import micro_batch_group
from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.model.model import build_model
from grok1.training.fake_step import FakeBatches
from grok1.training.job import Job
from grok1.training.optimizer import build_optimizer
from grok1.training.planned_routing import Routing, RoutingPlan
from grok1.training.step import Stepper


def metered(job: Job, where: Rendezvous, _emit: Any) -> list[str] | None:
    """Each rank's ledger as JSON, counted in a step whose micro-batches all ran; balanced routing. On rank 0."""
    recipe, phases = job.recipe, MarkedPhases()
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        with Meter(phases) as meter:
            model = build_model(recipe, ranks)
            RoutingPlan(recipe, Routing.balanced(recipe.model.num_experts)).apply(model)
            optimizer, scheduler = build_optimizer(model, recipe.training)
            batches = FakeBatches(recipe, ranks.context)
            stepper = Stepper(recipe, ranks, model, optimizer, scheduler, batches, phases)
            whole = run_in_full(recipe.num_micro_batches, micro_batch_group(recipe.parallel))
            ledger = rank_ledger(meter, stepper, batches, ranks, 1, whole)
        gathered: list[Any] | None = [None] * where.world_size if ranks.rank == 0 else None
        dist.gather_object(ledger.model_dump_json(), gathered)
        return gathered

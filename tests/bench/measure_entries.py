"""Runs that drop tokens, dawdle or differ between nodes, as entries for the launcher."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from grok1.device import software
from grok1.distributed.rendezvous import Rendezvous
from grok1.model import model
from grok1.training.job import Job
from grok1.training.result import RunResult
from grok1.training.run import run_rank


def compute(seconds: float) -> None:
    """Use a core for that long."""
    while time.process_time() < seconds:
        pass


def drop_tokens(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Trains with experts that take half of an even share at most: fast, and not the model that was asked for."""
    whole = model.transformer_config
    model.transformer_config = lambda recipe: replace(whole(recipe), moe_expert_capacity_factor=0.5)
    return run_rank(job, where, emit)


def dawdle_in_the_router(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Trains with routers that each lose some time in their forward."""
    from megatron.core.transformer.moe.router import TopKRouter

    routing = TopKRouter.routing

    def dawdling(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)  # eight of them are many times the step, whatever else the machine does
        return routing(*args, **kwargs)

    TopKRouter.routing = dawdling
    return run_rank(job, where, emit)


def edited_meanwhile(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Trains with sources that are others at the end than at the start."""
    found = [software.sources() | {"grok1": letter * 64} for letter in "ba"]
    software.sources = lambda named=(): found.pop() if len(found) > 1 else found[0]
    return run_rank(job, where, emit)


def one_node_a_rank(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """Trains with each rank a node of its own, by what it is told."""
    return run_rank(job, replace(where, local_rank=0, ranks_per_node=1), emit)


def other_megatron_on_node_1(job: Job, where: Rendezvous, emit: Any) -> RunResult | None:
    """As above, with other sources of megatron on the second."""
    if where.rank == 1:
        found = software.sources() | {"megatron.core": "0" * 64}
        software.sources = lambda named=(): found
    return one_node_a_rank(job, where, emit)

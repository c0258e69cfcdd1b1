"""The ranks of a command: started here, or this process is one of those that torchrun or Slurm started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grok1.config.recipe import Recipe
from grok1.device.kind import Kind, set_kind, set_recipe
from grok1.distributed.nodes import ONE_MACHINE, Nodes, Terms
from grok1.distributed.rendezvous import COLLECTIVE_SECONDS, COME_SECONDS, rendezvous_from_environment


def speaks(nodes: Nodes = ONE_MACHINE) -> bool:
    """Whether this process talks to people: it is the job's first rank, or starts it."""
    where = rendezvous_from_environment() if nodes.nnodes == 1 else None
    return nodes.node_rank == 0 if where is None else where.rank == 0


def run_ranks(
    entry: str,
    job: Any,
    recipe: Recipe,
    kind: Kind,
    nodes: Nodes = ONE_MACHINE,
    on_event: Callable[[Any], None] = lambda event: None,
    *,
    timeout_seconds: float = COLLECTIVE_SECONDS,
    terms: Terms | None = None,
    progress_seconds: float | None = None,
    come_seconds: float = COME_SECONDS,
) -> Any:
    """What the job's first rank returns; None on other ranks under torchrun or Slurm."""
    where = rendezvous_from_environment(timeout_seconds, come_seconds) if nodes.nnodes == 1 else None
    if where is not None:
        set_kind(kind)
        set_recipe(recipe)
        from grok1.distributed.join import run_here

        where = replace(where, progress_seconds=progress_seconds)
        return run_here(entry, job, recipe, kind, where, on_event, terms or {})
    from grok1.distributed.launch import launch

    return launch(
        job,
        recipe,
        kind,
        nodes,
        on_event,
        entry=entry,
        timeout_seconds=timeout_seconds,
        terms=terms,
        progress_seconds=progress_seconds,
    )

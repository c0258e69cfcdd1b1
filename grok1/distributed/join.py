"""Runs an entry on a rank that torchrun or Slurm has started: this process is the rank. No torch until it runs.

No launcher of ours watches such a job. The ranks themselves make sure that all nodes run the same, say who failed,
and give up after a time limit; what started them ends the others.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.distributed.nodes import Terms, common_terms
from grok1.distributed.rank_process import prepare_process
from grok1.distributed.rendezvous import Rendezvous


def run_here(
    entry: str, job: object, recipe: Recipe, device: Kind, where: Rendezvous, emit: Callable[[Any], None], terms: Terms
) -> Any:
    """What `entry`, "module:function", returns on this rank.

    Raises:
        ValueError: the ranks are not as many as the recipe's, or the nodes do not run the same.
        RuntimeError: it failed; the message names the rank and its node.
    """
    if where.world_size != recipe.parallel.world_size:
        raise ValueError(
            f"started with {where.world_size} ranks, the recipe has {recipe.parallel.world_size}; "
            f"use --set parallel.world_size={where.world_size} or start that many"
        )
    prepare_process()
    where = replace(where, terms=tuple({**terms, **common_terms(recipe, device)}.items()), host=socket.gethostname())
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(job, where, emit)
    except RuntimeError as error:
        raise RuntimeError(f"rank {where.rank} on {where.node_name} failed: {error}") from error

"""Runs an entry on a rank that torchrun or Slurm has started: this process is the rank. No torch until it runs.

No launcher of ours watches such a job. The ranks themselves make sure that all nodes run the same, say who failed,
and give up after a time limit; what started them ends the others.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.distributed.environment import check_environment
from grok1.distributed.nodes import Terms, common_terms
from grok1.distributed.progress import PROGRESS
from grok1.distributed.rank_process import prepare_process
from grok1.distributed.rendezvous import Rendezvous

_MOMENT_SECONDS = 2.0


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
    _end_when_told(where)
    check_environment(device, where.ranks_per_node, where.world_size)
    prepare_process()
    PROGRESS.write_here()
    where = replace(where, terms=tuple({**terms, **common_terms(recipe, device)}.items()), host=socket.gethostname())
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(job, where, emit)
    except RuntimeError as error:
        raise RuntimeError(f"rank {where.rank} on {where.node_name} failed: {error}") from error


def _end_when_told(where: Rendezvous) -> None:
    """End at SIGTERM and Ctrl-C even in the middle of a collective or of the wait for other ranks.

    Python's own handlers wait until C++ returns, which may be in ten minutes. A thread gives them a moment first.
    """
    told, bell = os.pipe()
    os.set_blocking(bell, False)

    def wait() -> None:
        while (number := os.read(told, 1)[0]) not in (signal.SIGTERM, signal.SIGINT):
            pass
        time.sleep(_MOMENT_SECONDS)
        print(f"grok1: rank {where.rank} was interrupted", file=sys.stderr, flush=True)
        os._exit(128 + number)  # as shells have it

    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()

"""Things that go wrong on a rank, as entries for the launcher."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from grok1.parallel import joined


def raise_on_rank_one(_job: Any, where: Any, _emit: Any) -> None:
    """Rank 1 raises; the others wait, as they would in a collective."""
    if where.rank == 1:
        raise RuntimeError("the sky fell on rank one")
    time.sleep(60)


def die_on_rank_one(_job: Any, where: Any, _emit: Any) -> None:
    """Rank 1 is killed, as by the out-of-memory killer."""
    if where.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def refuse(_job: Any, _where: Any, _emit: Any) -> None:
    """A rank finds the user's input wrong."""
    raise ValueError("the corpus is empty; add text")


def wait_for_ever(_job: Any, where: Any, emit: Any) -> None:
    """Rank 0 says its process id, then all hang."""
    emit({"pid": os.getpid(), "rank": where.rank})
    time.sleep(600)


def describe_threads(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """Rank 0's threads once its groups are built: how many of each name, and how they are scheduled."""
    with joined(where, job.recipe.parallel, 0):
        threads = list(Path("/proc/self/task").iterdir())
        return {
            "names": dict(Counter((thread / "comm").read_text().strip() for thread in threads)),
            "policies": sorted({os.sched_getscheduler(int(thread.name)) for thread in threads}),
        }

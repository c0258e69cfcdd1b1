"""Things that go wrong on a rank, as entries for the launcher."""

from __future__ import annotations

import os
import signal
import time
from typing import Any


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

"""The ranks of torchrun or Slurm come together before any group forms: all of them, all with the same to run.

Each writes into the job's store that it is here, and what it is about to run. The last to come compares, and writes
what all then do; where one does not come, the first whose patience ends writes who it was. No torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol

from grok1.distributed.heartbeat import Meeting
from grok1.distributed.nodes import disagreement
from grok1.distributed.rendezvous import Rendezvous
from grok1.distributed.stacks import rank_list

_POLL_SECONDS = 0.1
_POLLS_A_SECOND = 4000  # of all ranks together, which one process answers
_LEAVE_SECONDS = 3.0  # for the others to read why there is no job, before rank 0 takes the store with it
_NAMED = 8  # nodes whose ranks are missing


class Store(Protocol):
    """torch's, as far as it is used here."""

    def set(self, key: str, value: str) -> object:
        """Write a value."""
        ...

    def get(self, key: str) -> bytes:
        """A value that is there."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Values that are there."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Count, and say how far."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether these keys are there."""
        ...

    def set_timeout(self, timeout: timedelta) -> object:
        """How long the others may take."""
        ...


@dataclass(frozen=True)
class _Verdict:
    """What all ranks do now."""

    refused: str = ""  # why there is no job
    meeting: Meeting | None = None  # of the hearts


def call_roll(store: Store, where: Rendezvous, meeting: Meeting | None) -> Meeting | None:
    """Wait until all ranks are here, for `where.start_seconds` at most; returns where rank 0's heart listens.

    Raises:
        ValueError: ranks did not come, came twice, or do not run the same. All that came say the same line.
    """
    deadline = time.monotonic() + where.start_seconds
    complaint = _arrive(store, where, meeting)
    if complaint:
        _decide(store, _Verdict(complaint))
    elif store.add("come", 1) == where.world_size:
        _decide(store, _all_are_here(store, where))
    verdict = _verdict(store, where, deadline)
    if verdict.refused:
        _leave_together(store, where)
        raise ValueError(verdict.refused)
    return verdict.meeting


def _arrive(store: Store, where: Rendezvous, meeting: Meeting | None) -> str:
    """Say that this rank is here, and what it runs; the complaint where another is here with its number."""
    note = {
        "name": where.node_name,
        "terms": dict(where.terms),
        "meeting": None if meeting is None else asdict(meeting),
    }
    if store.add(f"first {where.rank}", 1) == 1:
        store.set(_note(where.rank), json.dumps(note))
        return ""
    return (
        f"rank {where.rank} was given twice, once on {where.node_name}; number the ranks from 0 to "
        f"{where.world_size - 1}, with RANK or by what starts them"
    )


def _all_are_here(store: Store, where: Rendezvous) -> _Verdict:
    notes = [json.loads(note) for note in store.multi_get([_note(rank) for rank in range(where.world_size)])]
    complaint = disagreement([(note["name"], note["terms"]) for note in notes])
    met = notes[0]["meeting"]
    return _Verdict(complaint or "", Meeting(**met) if met else None)


def _verdict(store: Store, where: Rendezvous, deadline: float) -> _Verdict:
    while not store.check(["verdict"]):
        if time.monotonic() > deadline:
            here = [store.check([_note(rank)]) for rank in range(where.world_size)]
            verdict = _Verdict(missing(where, [rank for rank, came in enumerate(here) if not came]))
            _decide(store, verdict)
            if time.monotonic() > deadline + _LEAVE_SECONDS:
                return verdict  # who was to say it has gone
        time.sleep(max(_POLL_SECONDS, where.world_size / _POLLS_A_SECOND))
    said = json.loads(store.get("verdict"))
    return _Verdict(said["refused"], Meeting(**said["meeting"]) if said["meeting"] else None)


def _decide(store: Store, verdict: _Verdict) -> None:
    """The first word counts."""
    if store.add("decided", 1) == 1:
        store.set("verdict", json.dumps(asdict(verdict)))


def _leave_together(store: Store, where: Rendezvous) -> None:
    store.add("read", 1)
    deadline = time.monotonic() + _LEAVE_SECONDS
    while where.rank == 0 and store.add("read", 0) < store.add("come", 0) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _note(rank: int) -> str:
    return f"rank {rank}"


def missing(where: Rendezvous, ranks: Sequence[int], why: str = "") -> str:
    """Which ranks did not come, in one line; `why` is what the system says of it."""
    if not ranks:
        return f"all ranks came to {where.place}, and nobody said so within {where.start_seconds:g} s; start them again"
    by_node: dict[int, list[int]] = {}
    for rank in ranks:
        by_node.setdefault(rank // where.ranks_per_node, []).append(rank)
    told = [f"{rank_list(each)} on node {node}" for node, each in list(by_node.items())[:_NAMED]]
    more = f" and those of {len(by_node) - _NAMED} more nodes" if len(by_node) > _NAMED else ""
    came = "" if why else f" ({where.world_size - len(ranks)} of {where.world_size} came)"
    return (
        f"{', '.join(told)}{more} did not come to {where.place} within {where.start_seconds:g} s{why}{came}: not "
        "started, or with another MASTER_ADDR or MASTER_PORT, or not done with what comes before; --start-timeout "
        "gives more time"
    )

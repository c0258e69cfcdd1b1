"""Ranks that come together in a store: all of them, once each, with the same to run; who does not come is named."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from grok1.distributed.heartbeat import Meeting
from grok1.distributed.rendezvous import Rendezvous
from grok1.distributed.roll_call import call_roll, missing
from tests.limits import HANG_SECONDS

MEETING = Meeting("rank 0 on node 0 (host0)", 1234, "token")


class Shelf:
    """A store within one process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        self._values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self._values[key]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self._values[key] for key in keys]

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            self._values[key] = str(int(self._values.get(key, b"0")) + amount).encode()
            return int(self._values[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def set_timeout(self, timeout: timedelta) -> None:
        pass


def _rank(rank: int, seed: str = "1", seconds: float = 1) -> Rendezvous:
    """Of four, two a node."""
    node = rank // 2
    terms = (("training.seed", seed),)
    return Rendezvous(
        "tcp://10.0.0.1:29500", rank, 4, rank % 2, 2, host=f"host{node}", terms=terms, start_seconds=seconds
    )


def _answers(ranks: Sequence[Rendezvous]) -> list[Meeting | str | None]:
    """What each was told: where hearts meet, or the complaint."""
    store = Shelf()

    def answer(where: Rendezvous) -> Meeting | str | None:
        try:
            return call_roll(store, where, MEETING if where.rank == 0 else None)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(answer, ranks))


def test_all_that_came_learn_where_hearts_meet() -> None:
    assert _answers([_rank(rank, seconds=HANG_SECONDS) for rank in range(4)]) == [MEETING] * 4


@pytest.mark.matrix(keep=1)  # each waits for a second
@pytest.mark.parametrize(
    ("there", "named"),
    [((2,), "ranks 0-1 on node 0, rank 3 on node 1"), ((0, 1), "ranks 2-3 on node 1"), ((1, 2, 3), "rank 0 on node 0")],
)
def test_those_that_did_not_come_are_named_by_all_that_did(there: tuple[int, ...], named: str) -> None:
    said = _answers([_rank(rank) for rank in there])
    (line,) = set(said)
    assert line == (
        f"{named} did not come to 10.0.0.1 port 29500 within 1 s ({len(there)} of 4 came): not started, or with "
        "another MASTER_ADDR or MASTER_PORT, or not done with what comes before; --start-timeout gives more time"
    )


def test_a_rank_given_twice_ends_all() -> None:
    (line,) = set(_answers([_rank(rank, seconds=HANG_SECONDS) for rank in (0, 1, 1)]))
    assert str(line).startswith("rank 1 was given twice, once on node 0 (host0); number the ranks from 0 to 3")


def test_what_differs_is_named_with_both_values_by_all() -> None:
    ranks = [_rank(rank, seed="7" if rank == 3 else "1", seconds=HANG_SECONDS) for rank in range(4)]
    (line,) = set(_answers(ranks))
    assert str(line).startswith("node 1 (host1) has training.seed 7, node 0 (host0) has 1; type the same command")


def test_a_line_names_so_many_ranks_of_a_large_job_and_counts_the_others() -> None:
    where = Rendezvous("tcp://10.0.0.1:29500", 0, 4096, 0, 8)
    line = missing(where, range(1, 4096, 2))
    assert line.startswith("ranks 1, 3, 5, 7 on node 0, ranks 9, 11, 13, 15 on node 1, ")
    assert "on node 7 and those of 504 more nodes did not come" in line
    assert len(line) < 600

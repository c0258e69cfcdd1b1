"""Collectives of ranks on a CPU, by connections and by shared memory: what they come to, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest

from grok1.device import gloo
from tests.grok1.conftest import FOUR_RANKS, Train


@pytest.mark.slow
def test_exchanges_come_to_what_the_collectives_mean(train: Train) -> None:
    found: Any = train(1, *FOUR_RANKS, entry="tests.grok1.device.exchange_entries:beside_their_meaning")
    by_connections, by_memory, sharing = zip(*found, strict=True)
    assert list(sharing) == [[False, False, False, True, False]] * 4
    for ways in (by_connections, by_memory):
        assert [each["wrong"] for each in ways] == [[]] * 4
        # alike on every rank, or they would wait for each other
        assert all(each["taken"] == ways[0]["taken"] for each in ways)
        counted = ways[0]["counted"]  # under the names that were called, not those of what is sent
        assert {name.split(" ", 1)[1] for name in counted} == {
            "all_gather_into_tensor",
            "reduce_scatter_tensor",
            "all_reduce",
            "all_to_all_single",
        }
        assert counted["tensor all_gather_into_tensor"] == counted["other all_gather_into_tensor"]
    if gloo._SCATTERS_SUMS_ALONE:  # torch 2.7, whose ring refused the whole job's largest and least; memory does not
        by_connections[0]["counted"]["other reduce_scatter_tensor"] += 2 * 18
    assert by_connections[0]["counted"] == by_memory[0]["counted"]
    taken = by_connections[0]["taken"]
    assert taken.keys() == {"tensor direct", "tensor ring", "world ring"}
    assert min(taken[way] for way in ("tensor direct", "tensor ring")) > 10
    # all but the four all-reduces of "too much", and a reduction that no exchange serves, which nobody is asked about
    swapped = sum(n for name, n in by_memory[0]["counted"].items() if "all_to_all" in name)
    shared = sum(taken.values()) - 4 + swapped
    assert by_memory[0]["taken"] == {"shared memory": shared, "tensor direct": 2, "tensor ring": 2}

"""Collectives on gloo by direct exchange: what they come to, when they serve, and what is counted of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.grok1.conftest import FOUR_RANKS, Train


@pytest.mark.slow
def test_exchanges_come_to_what_the_collectives_mean(train: Train) -> None:
    found: Any = train(1, *FOUR_RANKS, entry="tests.grok1.device.exchange_entries:beside_their_meaning")
    assert [each["wrong"] for each in found] == [[]] * 4
    # alike on every rank, or they would wait for each other
    assert all(each["taken"] == found[0]["taken"] for each in found)
    assert min(found[0]["taken"][way] for way in ("tensor direct", "tensor ring")) > 10
    assert found[0]["taken"].keys() == {"tensor direct", "tensor ring", "world ring"}
    counted = found[0]["counted"]  # under the names that were called, not those of what is sent
    assert {name.split(" ", 1)[1] for name in counted} == {
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "all_reduce",
    }
    assert counted["tensor all_gather_into_tensor"] == counted["other all_gather_into_tensor"]

"""A job of one machine can be reached from that machine alone."""

from __future__ import annotations

import ipaddress
from typing import Any

import psutil
import pytest

from grok1.config.load import load_recipe
from grok1.distributed.launch import launch
from tests.grok1.conftest import TWO_RANKS

ENTRY = "tests.grok1.distributed.rank_entries:meet_and_say_the_process"


@pytest.fixture(scope="module")
def listening() -> list[str]:
    """The addresses at which the ranks and the launcher's other processes listen while they talk."""
    recipe = load_recipe("grok1-nano", TWO_RANKS)
    found: list[str] = []

    def look(_event: Any) -> None:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        for each in (each for process in processes for each in process.net_connections()):
            if each.status == psutil.CONN_LISTEN:
                found.append(each.laddr.ip)

    launch(recipe, recipe, "cpu", on_event=look, entry=ENTRY)
    return found


def test_ranks_of_one_machine_listen_on_the_loopback_alone(listening: list[str]) -> None:
    assert len(listening) >= 2  # gloo's, of each rank
    assert all(ipaddress.ip_address(address).is_loopback for address in listening), listening

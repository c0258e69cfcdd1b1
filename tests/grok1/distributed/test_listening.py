"""Who can reach a job: one of one machine from that machine alone, one of several at its address, if it can."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from typing import Any

import psutil
import pytest

from grok1.config.load import load_recipe
from grok1.distributed.launch import launch
from grok1.distributed.listening import listening as listening_at
from tests.grok1.conftest import TWO_RANKS

ENTRY = "tests.grok1.distributed.rank_entries:meet_and_say_the_process"


@pytest.fixture(scope="module")
def listening() -> list[str]:
    """The addresses at which the ranks and the launcher's other processes listen while they talk."""
    recipe = load_recipe("grok1-nano", TWO_RANKS)
    found: list[str] = []

    def look(first_rank: Any) -> None:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        for each in (each for process in processes for each in process.net_connections()):
            if each.status == psutil.CONN_LISTEN:
                found.append(each.laddr.ip)
        os.kill(first_rank, signal.SIGUSR2)

    launch(recipe, recipe, "cpu", on_event=look, entry=ENTRY)
    return found


def test_ranks_of_one_machine_listen_on_the_loopback_alone(listening: list[str]) -> None:
    assert len(listening) >= 2  # gloo's, of each rank
    assert all(ipaddress.ip_address(address).is_loopback for address in listening), listening


@pytest.mark.parametrize(
    ("address", "is_one_machine", "expected"),
    [
        ("127.0.0.1", False, "127.0.0.1"),  # the same on every machine
        ("localhost", True, "loopback"),
        ("localhost", False, "all"),  # another machine's is another
        ("here.example", True, "127.0.1.1"),
        ("here.example", False, "all"),  # as Debian has it of the machine's own name
        ("far.example", False, "all"),  # not this machine's: translated on the way
        ("two.example", False, "all"),
        ("unknown.example", False, "all"),
    ],
)
def test_the_first_process_of_a_job_listens_at_its_address_alone_where_that_can_be(
    monkeypatch: pytest.MonkeyPatch, address: str, is_one_machine: bool, expected: str
) -> None:
    known = {"here.example": ["127.0.1.1"], "far.example": ["192.0.2.1"], "two.example": ["127.0.0.1", "127.0.0.2"]}
    ask = socket.getaddrinfo

    def answer(host: Any, *given: Any, **named: Any) -> Any:
        if host == "unknown.example":
            raise socket.gaierror(-2, "Name or service not known")
        return [each for known_as in known.get(host, [host]) for each in ask(known_as, *given, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with listening_at(address, 0, is_one_machine=is_one_machine) as listener:
        bound = ipaddress.ip_address(listener.getsockname()[0])
    if expected == "all":
        assert bound.is_unspecified
    elif expected == "loopback":
        assert bound.is_loopback
    else:
        assert str(bound) == expected


def test_a_port_that_is_taken_is_not_replaced_by_all_interfaces() -> None:
    with listening_at("127.0.0.1", 0, is_one_machine=False) as first, pytest.raises(OSError, match="in use"):
        listening_at("127.0.0.1", first.getsockname()[1], is_one_machine=False)

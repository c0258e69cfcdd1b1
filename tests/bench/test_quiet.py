"""Waiting for a quiet machine: for what, until when, and not for ever. No clock of ours runs."""

from __future__ import annotations

import itertools

import psutil
import pytest

from bench.quiet import wait_until_quiet


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)


def waited(used: list[float | None], ranks: int = 16, most: float = 10.0) -> tuple[bool, list[str]]:
    """Others' cores one reading after another, a second each."""
    said: list[str] = []
    readings, seconds = iter(used), itertools.count()
    return wait_until_quiet(ranks, most, said.append, lambda: next(readings), lambda: float(next(seconds))), said


def test_a_quiet_machine_is_not_waited_for() -> None:
    assert waited([0.05]) == (True, [])


def test_what_the_ranks_leave_free_may_be_used() -> None:
    assert waited([1.05], ranks=1) == (True, [])
    assert waited([1.2, 0.0], ranks=1)[1]


def test_it_says_for_what_it_waits_once_and_how_long_it_was() -> None:
    is_quiet, (first, last) = waited([1.5, 1.5, 1.4, 0.0])
    assert is_quiet
    assert first == (
        "waiting until the machine is quiet: other programs use 1.50 of 2 cores, and a quiet run leaves them 0.10; "
        "at most 10 s"
    )
    assert last.startswith("the machine is quiet after ")


def test_it_goes_on_after_the_bound_and_says_so() -> None:
    is_quiet, said = waited([1.5] * 100)
    assert not is_quiet
    assert "other programs use 1.50 of 2 cores" in said[-1]
    assert "the run goes on, and may be refused as a baseline's" in said[-1]


def test_where_nothing_says_what_others_use_it_does_not_wait() -> None:
    assert waited([None]) == (True, [])

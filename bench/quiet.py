"""Waiting until other programs leave the machine to a run: it says for what, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from bench.host import others_clock, others_cores
from bench.judge.disturbance import allowed_cores

_SAMPLE_SECONDS = 2.0


def others_now(seconds: float = _SAMPLE_SECONDS) -> float | None:
    """Cores that other programs use, on average over so long; None where nothing says so."""
    before = others_clock()
    time.sleep(seconds)
    return others_cores(before, others_clock())


def wait_until_quiet(
    ranks: int,
    most_seconds: float,
    say: Callable[[str], None],
    sample: Callable[[], float | None] = others_now,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether others leave enough to these ranks of this machine, by what a baseline's runs must keep."""
    cores = psutil.cpu_count() or 1
    allowed, started, has_said = allowed_cores(cores, ranks), clock(), False
    while (used := sample()) is not None and used > allowed:
        told = f"other programs use {used:.2f} of {cores} cores, and a quiet run leaves them {allowed:.2f}"
        if clock() - started >= most_seconds:
            say(f"waited {clock() - started:.0f} s, but {told}: the run goes on, and may be refused as a baseline's")
            return False
        if not has_said:
            say(f"waiting until the machine is quiet: {told}; at most {most_seconds:g} s")
        has_said = True
    if has_said:
        say(f"the machine is quiet after {clock() - started:.0f} s")
    return True

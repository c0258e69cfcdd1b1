"""Seconds of each signature on one device, cold: a step's calls one after the other, over several sets of operands.

A round calls every signature once, on the next set of its operands. So between two calls on the same operands all the
others' have passed through the caches, as in a step. A signature's seconds are the median of the rounds. On a CPU they
are the thread's own processor time, so that other programs count little. Elsewhere they are between two events of the
stream, which include the launch where the device waits for it; this was never executed on anything but a CPU.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.calibrate.signatures import Example, look, made
from bench.plan.measured_device import StepCounts
from grok1.config.recipe import Recipe
from grok1.distributed.rendezvous import Rendezvous

_MOST_SETS = 8
_MOST_BYTES = 1 << 30  # of all operands, whatever the caches are
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 60
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 64 << 20


@dataclass(frozen=True)
class OperatorJob:
    """Which rank's operators to time, and for how long."""

    recipe: Recipe
    rank: int
    seconds: float


@dataclass(frozen=True)
class Timed:
    """A signature's seconds, and what else its row in a profile says."""

    signature: str
    kind: str
    flops: int
    bytes: int
    product: tuple[int, int, int] | None
    seconds: float


@dataclass(frozen=True)
class OperatorTimes:
    """Of one rank: what a step of it calls, the seconds of each signature, and what could not be called alone."""

    counts: StepCounts
    timed: tuple[Timed, ...]
    refused: tuple[str, ...]
    rounds: int
    operand_bytes: int


def run_rank(job: OperatorJob, where: Rendezvous, _emit: Callable[[object], None]) -> OperatorTimes:
    """In a process of its own."""
    import torch

    from grok1.device import seam

    seam.activate()
    counts, examples = look(job.recipe, job.rank)
    seam.bind(where.local_rank)
    with torch.no_grad():
        sets, refused = _operand_sets(examples)
        seconds, rounds = _rounds(examples, sets, job.seconds)
    timed = tuple(
        Timed(name, each.kind, each.flops, each.bytes, each.product, seconds[name])
        for name, each in examples.items()
        if name in seconds
    )
    return OperatorTimes(counts, timed, tuple(refused), rounds, sum(map(_set_bytes, sets.values())))


def last_level_cache(folder: Path = _CACHES) -> int:
    """Bytes of the largest cache that the kernel names; 64 MiB where it names none."""
    sizes = [_UNKNOWN_CACHE]
    for path in sorted(folder.glob("index*/size")):
        text = path.read_text(encoding="ascii").strip()
        if text[:-1].isdecimal() and text[-1] in "KM":
            sizes.append(int(text[:-1]) << (10 if text[-1] == "K" else 20))
    return max(sizes[1:], default=_UNKNOWN_CACHE)


def _operand_sets(examples: dict[str, Example]) -> tuple[dict[str, list[tuple[Any, Any]]], list[str]]:
    """Sets of operands of each signature, together larger than the last cache if memory allows; whose call fails."""
    import torch
    from torch.utils._pytree import tree_map

    device = torch.cuda.current_device()

    def operands(each: Example) -> tuple[Any, Any]:
        return tree_map(lambda leaf: made(leaf, device), each.args), tree_map(
            lambda leaf: made(leaf, device), each.kwargs
        )

    sets: dict[str, list[tuple[Any, Any]]] = {}
    refused = []
    for name, each in examples.items():
        try:
            first = operands(each)
            each.func(*first[0], **first[1])
            sets[name] = [first]
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            refused.append(name)  # it wants operands that were not made up: the curve of its kind stands for it
    held = sum(map(_set_bytes, sets.values()))
    wanted = min(_MOST_BYTES, int(1.2 * last_level_cache()), psutil.virtual_memory().available // 4)
    for _ in range(min(_MOST_SETS, -(-wanted // max(1, held))) - 1):
        for name in sets:
            sets[name].append(operands(examples[name]))
    return sets, refused


def _set_bytes(sets: list[tuple[Any, Any]]) -> int:
    from grok1.device.operands import operands

    return sum(each.numel() * each.element_size() for args, kwargs in sets for each in operands(args, kwargs))


def _rounds(
    examples: dict[str, Example], sets: dict[str, list[tuple[Any, Any]]], seconds: float
) -> tuple[dict[str, float], int]:
    """Median seconds of a call by signature, of as many rounds as there is time for; the first warms up."""
    from grok1.device import measuring
    from grok1.device.kind import device_kind

    taken: dict[str, list[float]] = {name: [] for name in sets}
    is_cpu, deadline, rounds = device_kind() == "cpu", time.monotonic() + seconds, 0
    gc.disable()
    while rounds <= _FEWEST_ROUNDS or (rounds <= _MOST_ROUNDS and time.monotonic() < deadline):
        stamps = []
        for name, own in sets.items():
            func, (args, kwargs) = examples[name].func, own[rounds % len(own)]
            start = time.thread_time() if is_cpu else measuring.stamp()
            func(*args, **kwargs)
            stamps.append((name, start, time.thread_time() if is_cpu else measuring.stamp()))
        measuring.synchronize()
        for name, start, end in stamps if rounds else ():
            taken[name].append(measuring.seconds_between(start, end))
        rounds += 1
    gc.enable()
    clock = clock_seconds() if is_cpu else 0.0
    return {name: max(1e-9, statistics.median(each) - clock) for name, each in taken.items()}, rounds - 1


def clock_seconds() -> float:
    """What reading the clock costs, which is in each call's time."""
    found = []
    for _ in range(1000):
        start = time.thread_time()
        found.append(time.thread_time() - start)
    return statistics.median(found)

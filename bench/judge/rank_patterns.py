"""What the ranks of the new runs say: one that is slower than its peers, and memory that grows from step to step.

All ranks of a step wait for one another, so their steps take about as long. A slow rank is the one that waits least:
what counts is its step without what communication and the pipeline's sends and receives held it up. Ranks of one
pipeline stage do the same work, and only they are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.judge.findings import Finding, Floats, digits, middle
from bench.records.record import RankSamples, Record

_MIN_STEPS = 6
_MIN_STEADY_SHARE = 0.9  # of the steps, and of the runs
_COST_FLOOR_PERCENT = 1.0  # of a step
_LONGER_FLOOR_PERCENT = 3.0  # than the peers
_MIN_MEMORY_STEPS = 10
# Of the peak, a step. What a CPU process keeps resident grows for dozens of steps by itself: by 0.06 % a step of
# grok1-nano on four ranks.
_GROWTH_FLOOR, _RESIDENT_GROWTH_FLOOR = 1e-4, 1e-3
_MIN_GROWING = 0.9  # of the steps
_MIN_STEADY_SLOPE = 0.7  # of the whole slope, in each half of the steps


@dataclass(frozen=True)
class _Slow:
    """A part of the job, a rank or a node, that takes longer than its peers in nearly every step of a run."""

    name: str
    longer_percent: float
    cost_percent: float


def find_slow_rank(records: Sequence[Record], steady_from: Sequence[int]) -> Finding | None:
    """The rank, or else the node, that the others wait for in nearly every step of nearly every new run."""
    for by_node in (False, True):
        slowest = [_slowest(record, start, by_node) for record, start in zip(records, steady_from, strict=True)]
        found = [each for each in slowest if each is not None]
        names = Counter(each.name for each in found).most_common(1)
        if not names or names[0][1] < _MIN_STEADY_SHARE * len(records):
            continue
        alike = [each for each in found if each.name == names[0][0]]
        longer = middle([each.longer_percent for each in alike])
        sentence = (
            f"{names[0][0]} takes {digits(longer)} % longer than the median {'node' if by_node else 'rank'} of its "
            f"stage in every step, and the others wait for it"
        )
        return Finding("slow rank", sentence, middle([each.cost_percent for each in alike]))
    return None


def _slowest(record: Record, steady_from: int, by_node: bool) -> _Slow | None:
    busy_S = {rank.rank: _busy(rank)[steady_from:] for rank in record.ranks}
    step = float(np.mean([rank.step_seconds[steady_from:] for rank in record.ranks]))
    per_node = record.layout.ranks_per_node
    found = []
    for stage in sorted({rank.stage for rank in record.ranks}):
        ranks = [rank.rank for rank in record.ranks if rank.stage == stage]
        if by_node:
            nodes = sorted({rank // per_node for rank in ranks})
            units = {
                f"node {node}": np.median([busy_S[rank] for rank in ranks if rank // per_node == node], axis=0)
                for node in nodes
            }
        else:
            where = {rank: f" (node {rank // per_node})" if record.layout.nodes > 1 else "" for rank in ranks}
            units = {f"rank {rank}{where[rank]}": busy_S[rank] for rank in ranks}
        if (slow := _slowest_of(units, step)) is not None:
            found.append(slow)
    return max(found, key=lambda each: each.cost_percent, default=None)


def _busy(rank: RankSamples) -> Floats:
    """Seconds of each step in which the rank was not held up by others; all of it where that was not measured."""
    seconds = np.array(rank.step_seconds)
    for waits in (rank.communication_seconds, rank.phases_seconds.get("pipeline", [])):
        if waits:
            seconds = seconds - np.array(waits)
    return np.maximum(seconds, 0.0)


def _slowest_of(units: Mapping[str, Floats], step_seconds: float) -> _Slow | None:
    """The unit that is above all others in nearly every step; None where none is, or by too little."""
    if len(units) < 2:
        return None
    names, busy_US = list(units), np.array(list(units.values()))
    if busy_US.shape[1] < _MIN_STEPS:
        return None
    slowest = int(np.argmax(np.median(busy_US, axis=1)))
    others_US = np.delete(busy_US, slowest, axis=0)
    peers_S = np.median(others_US, axis=0)
    if float(np.mean(busy_US[slowest] > others_US.max(axis=0))) < _MIN_STEADY_SHARE:
        return None
    over = middle(busy_US[slowest] - peers_S)
    longer, cost = 100 * over / max(middle(peers_S), 1e-12), 100 * over / step_seconds
    if cost < _COST_FLOOR_PERCENT or longer < _LONGER_FLOOR_PERCENT:
        return None
    return _Slow(names[slowest], longer, cost)


def find_memory_slope(records: Sequence[Record], steady_from: Sequence[int]) -> Finding | None:
    """Memory that grows in nearly every step of nearly every new run, on the rank where it grows most."""
    slopes = [_steepest(record, start) for record, start in zip(records, steady_from, strict=True)]
    found = [each for each in slopes if each is not None]
    if not found or len(found) < _MIN_STEADY_SHARE * len(records):
        return None
    slope, share, rank = sorted(found)[len(found) // 2]
    growing = f"memory of rank {rank} grows" if records[0].layout.world_size > 1 else "memory grows"
    sentence = f"{growing} by {_bytes(slope)} a step, {digits(1e3 * share)} % of its peak in ten"
    return Finding("memory", sentence, 1e4 * share)


def _steepest(record: Record, steady_from: int) -> tuple[float, float, int] | None:
    """(bytes a step, as a share of the rank's peak, the rank)."""
    found = []
    floor = _RESIDENT_GROWTH_FLOOR if record.device.kind == "cpu" else _GROWTH_FLOOR
    for rank in record.ranks:
        peak = max([rank.peak_bytes, *rank.memory_bytes])
        slope = _slope(np.array(rank.memory_bytes[steady_from:], dtype=np.float64))
        if slope > floor * peak:
            found.append((slope, slope / peak, rank.rank))
    return max(found, default=None, key=lambda each: (each[1], -each[2]))


def _slope(bytes_S: Floats) -> float:
    """Bytes a step; 0 unless memory grows in nearly every step, and about as fast in each half of them.

    What settles grows at first and then no more.
    """
    if len(bytes_S) < _MIN_MEMORY_STEPS or float(np.mean(np.diff(bytes_S) > 0)) < _MIN_GROWING:
        return 0.0
    half = len(bytes_S) // 2
    slope = float(bytes_S[-1] - bytes_S[0]) / (len(bytes_S) - 1)
    halves = (bytes_S[half] - bytes_S[0]) / half, (bytes_S[-1] - bytes_S[half]) / (len(bytes_S) - 1 - half)
    return slope if min(halves) >= _MIN_STEADY_SLOPE * slope else 0.0


def _bytes(number: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} bytes"

"""Whether what was once gained is lost again: the last level of a history against the best that was kept a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.history.change_points import FLOOR_PERCENT, NEAR_RUNS, ChangePoint
from bench.history.noise import Floats

KEPT_RUNS = 5  # a faster level that held for fewer runs may have been luck


@dataclass(frozen=True)
class Setback:
    """Runs are indices into the history. Percents are of a step's time: gained less of it, lost to more of it."""

    best_seconds: float
    best_runs: tuple[int, int]  # of the best level: its first run, and the one after its last
    now_seconds: float  # the median of the last 30 runs of the last level
    now_runs: int  # of the last level
    lost_percent: float
    gained_percent: float | None  # when the best level was reached; None where the history began with it


def setback_of(seconds: Floats, points: Sequence[ChangePoint]) -> Setback | None:
    """The loss from the best level to the last one, if it is as large as a change must be to be reported."""
    edges = [0, *(point.at for point in points), len(seconds)]
    levels = [float(np.median(seconds[start:end])) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    kept = [level for level in range(len(levels)) if edges[level + 1] - edges[level] >= KEPT_RUNS]
    best = min(kept, key=lambda level: levels[level], default=len(levels) - 1)
    now = float(np.median(seconds[edges[-2] :][-NEAR_RUNS:]))
    lost = 100 * (now / levels[best] - 1)
    if best == len(levels) - 1 or lost < FLOOR_PERCENT:
        return None
    first = best
    while first and levels[first - 1] > levels[first]:
        first -= 1
    return Setback(
        best_seconds=levels[best],
        best_runs=(edges[best], edges[best + 1]),
        now_seconds=now,
        now_runs=len(seconds) - edges[-2],
        lost_percent=lost,
        gained_percent=100 * (1 - levels[best] / levels[first]) if first < best else None,
    )

"""Where the level of a history of runs changed: a monitor for people, not a gate.

The medians of runs, as ranks, are cut by PELT (Killick et al. 2012; the library `ruptures`) where that lessens the sum
of squares by more than a penalty. Ranks, so that one run that met other work does not count much. Where runs resemble
the one before, noise has levels too: the penalty grows with the correlation that is left after a first cut.
Measured error rates: docs/history.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from bench.history.store import Entry

LEAST_RUNS = 3  # of a level
PENALTY = 10.0
FLOOR_PERCENT = 1.0  # a smaller change is not reported
_MOST_CORRELATION = 0.9

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChangePoint:
    """Where the time of a step changed: between the commits of run `at` - 1 and run `at` (an index)."""

    at: int
    before_seconds: float
    after_seconds: float
    runs: tuple[int, int]  # of the level before and of the level after

    @property
    def percent(self) -> float:
        return 100 * (self.after_seconds / self.before_seconds - 1)


def change_points(series: Sequence[Entry]) -> list[ChangePoint]:
    """The changes of the step's time, of runs in the order of time; each level is the median of its runs."""
    seconds = np.array([entry.step_seconds for entry in series])
    ends = [*level_starts(seconds), len(seconds)]
    starts = [0, *ends[:-1]]
    levels = [float(np.median(seconds[start:end])) for start, end in zip(starts, ends, strict=True)]
    found = [
        ChangePoint(starts[i], levels[i - 1], levels[i], (starts[i] - starts[i - 1], ends[i] - starts[i]))
        for i in range(1, len(levels))
    ]
    return [point for point in found if abs(point.percent) >= FLOOR_PERCENT]


def level_starts(seconds: Floats, penalty: float = PENALTY) -> list[int]:
    """Where each level but the first begins."""
    import ruptures  # loads as slowly as scipy.stats does, and other commands do without

    if len(seconds) < 2 * LEAST_RUNS or np.ptp(seconds) == 0:
        return []
    ranks = scipy.stats.rankdata(seconds)
    scores = (ranks - ranks.mean()) / ranks.std()
    search = ruptures.KernelCPD(kernel="linear", min_size=LEAST_RUNS).fit(scores.reshape(-1, 1))
    first = search.predict(pen=penalty)[:-1]
    if not first:
        return []
    rests = np.concatenate([part - part.mean() for part in np.split(scores, first)])
    correlation = _correlation(rests)
    return [int(end) for end in search.predict(pen=penalty * (1 + correlation) / (1 - correlation))[:-1]]


def _correlation(rests: Floats) -> float:
    """Of each run with the one before it, where it is positive."""
    whole = float(rests @ rests)
    found = float(rests[:-1] @ rests[1:]) / whole if whole > 0 else 0.0
    return min(max(found, 0.0), _MOST_CORRELATION)

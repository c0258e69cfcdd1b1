"""Runs that fall into two levels, as where a job lands on one of two kinds of place or a kernel is chosen by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.judge.findings import Finding, SteadySteps, middle

_MIN_RUNS_OF_LEVEL = 2
_GAP_FLOOR = 0.01  # of the lower level
# Of the steps are on their own run's side of the middle of the gap. Where fewer are, or where the slow runs vary much
# more from step to step, what is seen is whatever else ran on the machine.
_MIN_STAYING = 0.9
_MOST_UNEASY = 2.5
_LEAST_STEP_SPREAD = 0.005
_LEAST_SPREAD = 1e-4  # a clock's tick


@dataclass(frozen=True)
class _Split:
    """Logarithms of runs' medians in two parts; `squares` are about the mean of each part."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    gap: float
    squares: float


def find_levels(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> list[Finding]:
    """What to say of either side's runs: of the new ones first."""
    sides = [sorted(math.log(run.median) for run in side) for side in (after, before)]
    splits = [_split(side) for side in sides]
    others = [_within(side, split) for side, split in zip(sides, splits, strict=True)]
    found = []
    named = (("", after), ("the baseline's ", before))
    for (which, runs), split, (squares, freedom) in zip(named, splits, reversed(others), strict=True):
        if split is not None and _is_clear(split, squares, freedom) and _stays(runs, split):
            found.append(_told(which, split))
    return found


def _split(logs: Sequence[float]) -> _Split | None:
    """At the widest gap that leaves two runs on each side."""
    places = range(_MIN_RUNS_OF_LEVEL, len(logs) - _MIN_RUNS_OF_LEVEL + 1)
    if not places:
        return None
    at = max(places, key=lambda place: logs[place] - logs[place - 1])
    low, high = tuple(logs[:at]), tuple(logs[at:])
    return _Split(low, high, high[0] - low[-1], _squares(low) + _squares(high))


def _squares(logs: Sequence[float]) -> float:
    return float(np.square(np.asarray(logs) - np.mean(logs)).sum()) if len(logs) else 0.0


def _within(logs: Sequence[float], split: _Split | None) -> tuple[float, int]:
    """What this side says of the spread between runs: about its levels, if it has two."""
    if split is not None and _is_clear(split, 0.0, 0):
        return split.squares, len(logs) - 2
    return _squares(logs), max(len(logs) - 1, 0)


def _is_clear(split: _Split, squares: float, freedom: int) -> bool:
    """Whether the gap is wider than one of equal runs would be in more than about 2 % of the cases.

    In units of the spread within the levels, pooled with the other side's, the 98th percentiles of the widest gap of
    4 to 20 normal or uniform runs are at most 3.5 + 80 / (degrees of freedom)^2 (simulated).
    """
    degrees = len(split.low) + len(split.high) - 2 + freedom
    spread = max(math.sqrt((split.squares + squares) / degrees), _LEAST_SPREAD)
    return split.gap >= max(math.log1p(_GAP_FLOOR), spread * (4.2 + 90 / degrees**2))


def _stays(runs: Sequence[SteadySteps], split: _Split) -> bool:
    """Whether each run stays on its level, and those of the upper one vary from step to step about as the others do."""
    border = math.exp((split.low[-1] + split.high[0]) / 2)
    staying = sum(int(((run.seconds > border) == (run.median > border)).sum()) for run in runs)
    low, high = (middle([_varies(run) for run in runs if (run.median > border) == above]) for above in (False, True))
    return staying >= _MIN_STAYING * sum(len(run.seconds) for run in runs) and high <= _MOST_UNEASY * low


def _varies(run: SteadySteps) -> float:
    """Between the quartiles of its steps, as a share of the median; a clock's half percent at least."""
    low, high = np.percentile(run.relative, [25, 75])
    return max(float(high - low), _LEAST_STEP_SPREAD)


def _told(which: str, split: _Split) -> Finding:
    levels = [(math.exp(middle(side)), len(side)) for side in (split.low, split.high)]
    told = " and ".join(f"{seconds:.4g} s ({count} runs)" for seconds, count in levels)
    share = len(split.high) / (len(split.low) + len(split.high))
    cost = share * (levels[1][0] - levels[0][0])
    return Finding("two levels", f"{which}runs fall into two levels, {told}", 100 * cost / (levels[0][0] + cost))

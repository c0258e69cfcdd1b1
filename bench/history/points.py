"""The runs of a history gathered into points, as a page of it shows them: the runs of one commit on one day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from bench.history.change_points import ChangePoint
from bench.history.store import Entry

_LEAST_FREEDOM = 4  # pairs of equal runs, more or less, below which their scatter says too little for an interval
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Point:
    """Runs that follow each other, of one commit, software and day, without a change of level between them.

    `seconds` is the geometric mean of their step times, and `interval` its 95 % confidence interval, from how much
    such runs differ in all points of the series together; None where too few points have more than one run.
    """

    at: int  # of the first run in the series
    runs: tuple[Entry, ...]
    seconds: float
    interval: tuple[float, float] | None

    @property
    def newest(self) -> Entry:
        return self.runs[-1]


def points_of(series: Sequence[Entry], changes: Sequence[ChangePoint]) -> list[Point]:
    """The points of runs in the order of time."""
    starts = {change.at for change in changes}
    parts: list[list[Entry]] = []
    for place, entry in enumerate(series):
        if not parts or place in starts or _belongs(entry) != _belongs(parts[-1][-1]):
            parts.append([])
        parts[-1].append(entry)
    logs = [np.log([entry.step_seconds for entry in part]) for part in parts]
    freedom = len(series) - len(parts)
    squares = math.fsum(float(np.sum((each - each.mean()) ** 2)) for each in logs)
    reach = _reach(squares, freedom)
    found, at = [], 0
    for part, each in zip(parts, logs, strict=True):
        middle = float(each.mean())
        ends = None if reach is None else (middle - reach / math.sqrt(len(part)), middle + reach / math.sqrt(len(part)))
        found.append(Point(at, tuple(part), math.exp(middle), ends and (math.exp(ends[0]), math.exp(ends[1]))))
        at += len(part)
    return found


def _belongs(entry: Entry) -> tuple[object, ...]:
    is_edited = entry.commit.dirty and not entry.code_digests  # digests say themselves what was edited
    return entry.commit.sha, is_edited, entry.created_at[:10], entry.software, entry.code_digests


def _reach(squares: float, freedom: int) -> float | None:
    """Of the interval of a single run, in logarithms."""
    if freedom < _LEAST_FREEDOM:
        return None
    quantile = float(scipy.special.stdtrit(freedom, (1 + _CONFIDENCE) / 2))
    return quantile * math.sqrt(squares / freedom)

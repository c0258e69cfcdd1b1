"""The tick of the clock that step times were taken with, or of the digits that they were printed with.

A difference below the tick is not known to be there, nor known to be none. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_DIGITS = 8  # after the point, of seconds: a finer clock has no tick that matters
_OFF_DIGIT = 1e-6  # of the last digit: what a binary number lacks
_LEAST_SHARE = 1e-5  # of a step: a smaller tick does not matter
_MIN_LEVELS = 3  # different times that a grid is read from
_MOST_DIFFERENT = 0.7  # of all: times that hardly repeat show no grid
_OFF_GRID = 0.02  # of a tick: rounding of the times themselves

Floats = npt.NDArray[np.float64]


def tick_seconds(step_seconds: Sequence[float]) -> float:
    """The tick that the times show, in seconds; 0 where they show none that matters.

    They were printed with few digits, or all are on one grid, with repetitions.
    """
    seconds = np.asarray(step_seconds, dtype=np.float64)
    tick = max(_of_digits(seconds), _of_grid(seconds))
    return tick if tick > _LEAST_SHARE * float(np.median(seconds)) else 0.0


def mean_tick_seconds(step_seconds: Sequence[float], tick: float) -> float:
    """What is left of a tick in the mean: nothing where the times vary by half a tick, as their roundings then cancel.

    (Widrow and Kollar, "Quantization Noise": the mean of rounded normal times is wrong by 0.3 % of a tick then.)
    """
    return 0.0 if float(np.std(step_seconds)) >= tick / 2 else tick


def _of_digits(seconds: Floats) -> float:
    """The last decimal place that any of the times needs."""
    if not _has_digits(seconds, _DIGITS):
        return 0.0
    return float(10.0 ** -next(digits for digits in range(_DIGITS + 1) if _has_digits(seconds, digits)))


def _has_digits(seconds: Floats, digits: int) -> bool:
    scaled = seconds * 10.0**digits
    return bool((np.abs(scaled - np.round(scaled)) < _OFF_DIGIT).all())


def _of_grid(seconds: Floats) -> float:
    levels = np.unique(seconds)
    if len(levels) < _MIN_LEVELS or len(levels) > _MOST_DIFFERENT * len(seconds):
        return 0.0
    gaps = np.diff(levels)
    tick = float(gaps.min())
    apart = gaps / tick
    return tick if np.all(np.abs(apart - np.round(apart)) < _OFF_GRID * np.round(apart)) else 0.0

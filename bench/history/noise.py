"""How much equal runs of a history differ, however often its level changed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]  # of each run, ascending

_MAD_TO_SIGMA = 1.4826
_SPIKE_SIGMAS = 4.0
_CLIP_SIGMAS = 2.5
_MOST_CORRELATION = 0.8
_LEAST_DAYS = 5
_LEAST_RUNS_A_DAY = 2
_FEW_DAYS = 3.0
_LEAST_SIGMA = 1e-4  # of a logarithm, 0.01 %: figures that never vary would have none


@dataclass(frozen=True)
class Noise:
    """Of equal runs: the variance of one, and its correlation with the one before it (0 to 0.8)."""

    variance: float
    correlation: float


def noise_of(values: Floats) -> Noise:
    """The noise of at least three values in the order of time.

    From the differences of neighbours and of runs two apart, which a change of level touches once and twice. Of runs
    with variance v of which each resembles the one before by r, the squares of these have the means 2v(1 - r) and
    2v(1 - r^2), so their ratio is 1 + r (Chakar et al. 2017).
    """
    one, two = _mean_square(np.diff(values)), _mean_square(values[2:] - values[:-2])
    correlation = min(max(two / one - 1, 0.0), _MOST_CORRELATION) if one > 0 else 0.0
    return Noise(max(one / 2 / (1 - correlation), _LEAST_SIGMA**2), correlation)


def _mean_square(differences: Floats) -> float:
    """Without the large ones: each is clipped at 2.5 robust standard deviations."""
    bound = _CLIP_SIGMAS * _MAD_TO_SIGMA * float(np.median(np.abs(differences)))
    return float(np.mean(np.clip(differences, -bound, bound) ** 2))


def without_spikes(values: Floats) -> Floats:
    """One or two bad runs in a row are pulled to within four standard deviations of the median of five runs."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, 2, mode="reflect"), 5)
    middle = np.median(around, axis=1)
    sigma = _MAD_TO_SIGMA * max(
        float(np.median(np.abs(values - middle))), 0.5 * float(np.median(np.abs(np.diff(values))))
    )
    return np.asarray(np.clip(values, middle - _SPIKE_SIGMAS * sigma, middle + _SPIKE_SIGMAS * sigma))


def day_sigma(values: Floats, days: Days) -> float:
    """The standard deviation of what runs of one day have in common; 0 where too few days or runs a day tell.

    From the differences between the last three runs of a day and the first three of the next, less what runs of one day
    differ. A change of level within a day touches none of them. Of few days it is taken larger, being hardly known.
    """
    edges = np.flatnonzero(np.diff(days)) + 1
    if len(edges) < _LEAST_DAYS - 1 or len(values) < _LEAST_RUNS_A_DAY * (len(edges) + 1):
        return 0.0
    parts = np.split(values, edges)
    jumps = [float(np.median(new[:3]) - np.median(old[-3:])) for old, new in itertools.pairwise(parts)]
    within = _mean_square(np.concatenate([np.diff(part) for part in parts])) / 2
    owed = within * float(np.mean([1 / min(len(part), 3) for part in parts]))
    variance = (_MAD_TO_SIGMA * float(np.median(np.abs(jumps)))) ** 2 / 2 - owed
    return math.sqrt(max(variance, 0.0)) * (1 + _FEW_DAYS / len(jumps))


def scatter(values: Floats) -> float:
    """A standard deviation: from the median deviation of at least six values, the plain one of fewer."""
    if len(values) < 6:
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return _MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))

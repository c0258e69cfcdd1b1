"""How good predictions were: errors, coverage, and what a wrong choice of layout costs. No torch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from bench.plan.layouts import Floats


@dataclass(frozen=True)
class Errors:
    """Of predicted over measured seconds, as shares; nothing of it is signed but `bias`."""

    rows: int
    median: float
    p90: float
    worst: float
    bias: float  # median of the signed errors: positive where predictions are too slow


@dataclass(frozen=True)
class Choice:
    """What the planner chose among measured layouts of one job."""

    layouts: int
    regret: float  # seconds of the layout that it puts first over the best measured, less 1
    tau: float  # Kendall's, between predicted and measured seconds; no number where all are equal


def errors_of(predicted: Sequence[float] | Floats, measured: Sequence[float] | Floats) -> Errors:
    """Errors of predictions, row by row.

    Raises:
        ValueError: no rows, or times that are not positive.
    """
    ratio = _positive(predicted) / _positive(measured)
    if not len(ratio):
        raise ValueError("no row to score")
    error = np.abs(ratio - 1)
    return Errors(
        rows=len(ratio),
        median=float(np.median(error)),
        p90=float(np.quantile(error, 0.9)),
        worst=float(error.max()),
        bias=float(np.median(ratio) - 1),
    )


def choice_of(predicted: Sequence[float] | Floats, measured: Sequence[float] | Floats) -> Choice:
    """Regret and rank correlation over layouts of one job; of layouts predicted equal, the slowest is chosen."""
    guess, real = _positive(predicted), _positive(measured)
    if len(guess) < 2:
        raise ValueError("a choice needs at least two layouts")
    first = real[guess == guess.min()].max()
    tau = float(kendalltau(guess, real).statistic) if np.ptp(guess) and np.ptp(real) else math.nan
    return Choice(len(guess), float(first / real.min() - 1), tau)


def choices_by_job(
    jobs: Sequence[Hashable], predicted: Sequence[float], measured: Sequence[float]
) -> dict[Hashable, Choice]:
    """The choice of each job that has at least two rows."""
    places: dict[Hashable, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job, []).append(place)
    return {
        job: choice_of([predicted[at] for at in of_job], [measured[at] for at in of_job])
        for job, of_job in places.items()
        if len(of_job) > 1
    }


def _positive(seconds: Sequence[float] | Floats) -> Floats:
    values = np.asarray(seconds, float)
    if not ((values > 0) & np.isfinite(values)).all():
        raise ValueError("seconds of a step must be positive and finite")
    return values

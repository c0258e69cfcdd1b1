"""Why a run may not become part of a baseline, and what a person should know of one that may.

A run is refused for what the machine did to it (bench.judge.disturbance), which can be asked of new runs too. How its
own steps vary, drift or stall is a note: no new run is set aside for it, so a baseline of runs chosen by it would be
quieter than what it judges. Pure functions, no torch: a record in, sentences out, each with the value and its bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy

from bench.judge.disturbance import disturbed
from bench.judge.stats import MIN_STEPS_TO_DETECT, summarise
from bench.records.record import Record

Floats = npt.NDArray[np.float64]

# What is worth a note.
NOTED_CV_PERCENT = 5.0
NOTED_DRIFT_PERCENT = 2.0  # of a step, from the first third of the steady steps to the last
DRIFT_ERROR = 0.01  # the chance to see a drift in independent steps that have none
NOTED_JUMP = 10.0  # one steady step over their median
# What is refused: no baseline can state a tolerance wider than half of its tokens/s, a factor of two in seconds. Where
# the middle half of the steps is wider than that, the median is whichever level happened to prevail.
MAX_MIDDLE_RATIO = 2.0


def complaints(record: Record, allow_busy: bool = False) -> list[str]:
    """Why this run may not be of a baseline; nothing where it may. A void run says why it is void."""
    if not record.valid:
        return [f"the run is void: {reason}" for reason in record.void_reasons]
    if record.planted_percent:
        return [f"its steps were made {record.planted_percent:g} % longer on purpose (--plant-slowdown)"]
    summary = summarise(record)
    steady = np.asarray(summary.step_seconds[summary.steady_from :], dtype=np.float64)
    return [*_of_shape(steady), *([] if allow_busy else disturbed(record))]


def notes(steady_step_seconds: Sequence[float], warmup_steps: int) -> list[str]:
    """What is odd about a run's own steps, though no reason to refuse it; empty where nothing is."""
    steady = np.asarray(steady_step_seconds, dtype=np.float64)
    return [*_of_steps(steady, warmup_steps), *_of_warmup(len(steady), warmup_steps)]


def _of_shape(steady: Floats) -> Iterator[str]:
    low, high = np.percentile(steady, [25, 75]).tolist()
    if high > MAX_MIDDLE_RATIO * low:
        yield (
            f"the middle half of its steady steps goes from {low:.4g} s to {high:.4g} s, more than the factor of "
            f"{MAX_MIDDLE_RATIO:g} that the widest tolerance allows: it has no speed to hold others to"
        )


def _of_steps(steady: Floats, warmup_steps: int) -> Iterator[str]:
    variation = 100 * float(steady.std(ddof=1) / steady.mean()) if len(steady) > 1 else 0.0
    if variation > NOTED_CV_PERCENT:
        yield f"steady steps vary by {variation:.1f} % (coefficient of variation)"
    if (drift := _drift_percent(steady)) is not None:
        yield (
            f"steady steps drift by {drift:+.1f} % from their first third to their last "
            f"(significant at {DRIFT_ERROR:.0%})"
        )
    slowest, median = int(steady.argmax()), float(np.median(steady))
    if steady[slowest] > NOTED_JUMP * median:
        yield (
            f"step {warmup_steps + slowest + 1} of {warmup_steps + len(steady)} took {steady[slowest]:.4g} s, more "
            f"than {NOTED_JUMP:g} times the median of {median:.4g} s: it stalled, or the clock jumped"
        )


def _drift_percent(steady: Floats) -> float | None:
    """How far the steps drifted, if that is significant and far enough to note.

    Kendall's rank test is exact for short runs, where Spearman's approximation calls five rising steps certain.
    """
    third = len(steady) // 3
    if third < 1:
        return None
    first, last = np.median(steady[:third]), np.median(steady[-third:])
    moved = float(100 * (last - first) / np.median(steady))
    if abs(moved) <= NOTED_DRIFT_PERCENT:
        return None
    trend = scipy.stats.kendalltau(np.arange(len(steady)), steady)
    # of steps that are all alike the chance is not a number, which is below nothing
    return moved if trend.pvalue < DRIFT_ERROR else None


def _of_warmup(steady: int, warmup_steps: int) -> Iterator[str]:
    """`bench.judge.stats.find_steady` cuts half of the steps where it finds no end of the warm-up."""
    total = warmup_steps + steady
    if total >= MIN_STEPS_TO_DETECT and warmup_steps == total // 2:
        yield (
            f"the warm-up never settled: step times still changed after {warmup_steps} of {total} steps, and at most "
            "half may be warm-up; more steps would settle it"
        )

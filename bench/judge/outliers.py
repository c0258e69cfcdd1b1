"""Runs of a baseline that lie far from its other runs: found by a test that two of them cannot hide from.

One run that is 10 % slower among ten that differ by half a percent raises the spread to 3 %, and hides slowdowns for as
long as the baseline is stored. The test is the generalized extreme studentized deviate on logarithms (Rosner,
"Percentage points for a generalized ESD many-outlier procedure", Technometrics 25, 1983). It sets the farthest run
aside, then the next, and compares each with what the rest say. Its first step is Grubbs's test, a leave-one-out t with
Bonferroni's correction. Pure functions, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from bench.judge.baseline import Baseline
from bench.judge.difference import FLOOR_PERCENT, MIN_BASELINE_RUNS
from bench.judge.metrics import STEP, metric_of
from bench.judge.words import figure

Floats = npt.NDArray[np.float64]

# The chance that any run of equal, normal ones is called far: shared by the metrics, the time of a step first.
OUTLIER_ERROR = 0.05
MEAN, PEAK = "mean_step_seconds", "peak_bytes"
_SHARES = {STEP: 0.6, MEAN: 0.3, PEAK: 0.1}
# One or two far runs are accidents. More of them are how this machine runs: the spread rightly holds them.
MAX_ACCIDENTS = 2
# Asking for a second far value errs too, which Rosner's tables leave out. This much less for each test keeps the whole
# at 4.8 to 5.1 % where 5 % is asked for, in 100,000 simulated samples of each of 6 to 40 values.
_FOR_MORE = 2.7


@dataclass(frozen=True)
class Far:
    """One value far from the others: how far from their median, how many they are, and their standard deviation."""

    index: int
    percent: float
    count: int
    spread_percent: float
    is_accident: bool


@dataclass(frozen=True)
class Outlier:
    """One run of a baseline that is far from the others in one metric."""

    record_id: str
    metric: str
    value: float
    far: Far

    @property
    def sentence(self) -> str:
        """The run, its value and its distance; and whether so many are far that they are the machine's own noise."""
        known = metric_of(self.metric)
        side = "above" if self.far.percent > 0 else "below"
        recurs = "" if self.far.is_accident else "; too many are as far to be accidents, so this is how runs vary here"
        return (
            f"run {self.record_id[:8]} is far from the others: {self.metric if known is None else known.title} "
            f"{figure(self.metric, self.value)}, {abs(self.far.percent):.1f} % {side} the median of the other "
            f"{self.far.count}, which vary by {self.far.spread_percent:.2g} %{recurs}"
        )


def outliers(baseline: Baseline) -> list[Outlier]:
    """The runs far from the others in step time, mean step or peak memory; a run is named once for its time."""
    figures = [run.known_figures for run in baseline.runs]
    found: dict[tuple[int, str], Outlier] = {}
    for name, share in _SHARES.items():
        if not figures or not all(name in each for each in figures):
            continue
        values = [each[name] for each in figures]
        for far in far_from_others(values, error=OUTLIER_ERROR * share, floor_percent=baseline.floor_percent):
            kind = "memory" if name == PEAK else "time"
            run = baseline.runs[far.index]
            found.setdefault((far.index, kind), Outlier(run.record_id, name, values[far.index], far))
    return list(found.values())


def accidents(baseline: Baseline) -> list[Outlier]:
    """Those for which a new baseline is refused: one or two far runs. More of them are the machine's own noise."""
    return [each for each in outliers(baseline) if each.far.is_accident]


def told(baseline: Baseline) -> str:
    """What a verdict says of a far run in its baseline; empty where there is none."""
    found = accidents(baseline)
    if not found:
        return ""
    return f"in its baseline, {found[0].sentence}; it widens the interval: record the baseline again"


def far_from_others(
    values: Sequence[float], *, error: float = OUTLIER_ERROR, floor_percent: float = FLOOR_PERCENT
) -> list[Far]:
    """Which positive values are far from the others, nearest last; never one that is within the floor of them.

    `error` bounds the chance to find one or two among equal, normal values. At most a third of them can be found, so
    that fewer than six are asked for one alone.
    """
    count = len(values)
    if count < MIN_BASELINE_RUNS:
        return []
    logs = np.log(np.asarray(values, dtype=np.float64))
    most = max(1, count // 3)
    alpha = error if most == 1 else error * (1 - _FOR_MORE / count)
    rest, order, beyond = list(range(count)), [], 0
    for step in range(1, most + 1):
        kept = logs[rest]
        deviations, spread = np.abs(kept - kept.mean()), float(kept.std(ddof=1))
        farthest = int(deviations.argmax())
        order.append(rest.pop(farthest))
        if deviations[farthest] > _critical(count, step, alpha) * spread:
            beyond = step
    return _beyond_the_floor(logs, order[:beyond], floor_percent)


def _beyond_the_floor(logs: Floats, found: list[int], floor_percent: float) -> list[Far]:
    middle = float(np.median(np.delete(logs, found)))
    far = [index for index in found if 100 * abs(math.expm1(float(logs[index]) - middle)) > floor_percent]
    others = np.delete(logs, far)
    middle, spread = float(np.median(others)), float(others.std(ddof=1))
    return [
        Far(
            index=index,
            percent=100 * math.expm1(float(logs[index]) - middle),
            count=len(others),
            spread_percent=100 * math.expm1(spread),
            is_accident=len(far) <= MAX_ACCIDENTS,
        )
        for index in far
    ]


@functools.lru_cache(maxsize=4096)
def _critical(count: int, step: int, alpha: float) -> float:
    """Rosner's critical value for the deviate of the `step`-th value set aside of `count`, two-sided at `alpha`."""
    freedom = count - step - 1
    t = float(scipy.stats.t.isf(alpha / (2 * (count - step + 1)), freedom))
    return (count - step) * t / math.sqrt((freedom + t * t) * (count - step + 1))

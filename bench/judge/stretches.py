"""Steps that are slow together or here and there, and runs that slow down: what new runs do and a baseline's do not.

Each kind is one number a run, and the rank-sum test compares the two sides' numbers. A slow stretch is looked for, so
its number is compared with what is found when the runs are dealt to the two sides in any other way (a permutation test
that looks again each time).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.judge.findings import (
    FLOOR_PERCENT,
    KIND_ERROR,
    Finding,
    Floats,
    Ints,
    SteadySteps,
    digits,
    is_larger,
    middle,
)

_MIN_RUNS = 3  # on each side: fewer can never differ
_MIN_STEPS = 6
_DRIFT_FLOOR_PERCENT = 1.0
_MIN_ALIKE = 0.8  # of the runs drift the same way
_MIN_SOLID = 0.7  # of the steps of a stretch are slow
_DEALS = 500
_COVERED = 0.75  # of the runs of both sides have a step at each end of what is compared
_GROWN = 0.05  # of the 95th percentile: if it did not grow, the slow steps are fewer than one in twenty
_MAX_CELLS = 20_000_000  # steps x runs that are compared


def without(runs: Sequence[SteadySteps], slow: Sequence[Ints]) -> list[SteadySteps]:
    """The runs with these steps at the run's median, as if they had been like any other."""
    kept = []
    for run, at in zip(runs, slow, strict=True):
        seconds = run.seconds.copy()
        seconds[at] = run.median
        kept.append(replace(run, seconds=seconds))
    return kept


def find_stretch(
    before: Sequence[SteadySteps], after: Sequence[SteadySteps]
) -> tuple[Finding, list[Ints], list[Ints]] | None:
    """Neighbouring steps at which the new runs are slow and the baseline's are not; and those steps in each run."""
    if len(before) < _MIN_RUNS or len(after) < _MIN_RUNS:
        return None
    start, end = _compared(before, after)
    runs = [*before, *after]
    if end - start < _MIN_STEPS or (end - start) * len(runs) > _MAX_CELLS:
        return None
    relative_RS = np.full((len(runs), end - start), np.nan)
    for row, run in enumerate(runs):
        low, high = max(start, run.first), min(end, run.first + len(run.seconds))
        if low < high:
            relative_RS[row, low - start : high - start] = run.relative[low - run.first : high - run.first]
    is_new = np.arange(len(runs)) >= len(before)
    sums, first, last = _costliest(relative_RS, is_new[None, :])
    if 100 * sums[0] / (end - start) < FLOOR_PERCENT / 2:
        return None
    low, high = _trimmed(np.nanmean(relative_RS[is_new, first[0] : last[0]], axis=0))
    inside = [_between(run, start + int(first[0]) + low, start + int(first[0]) + high) for run in runs]
    slow_before, slow_after = inside[: len(before)], inside[len(before) :]
    told = _stretch_told(before, after, slow_before, slow_after)
    if told is None or not _is_rare(relative_RS, is_new, float(sums[0])):
        return None
    return told, slow_before, slow_after


def _compared(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> tuple[int, int]:
    """Indices of steps that most runs of both sides have."""
    starts, ends = [], []
    for side in (before, after):
        few = math.floor((1 - _COVERED) * len(side))
        starts.append(sorted(run.first for run in side)[len(side) - 1 - few])
        ends.append(sorted(run.first + len(run.seconds) for run in side)[few])
    return max(starts), min(ends)


def _costliest(relative_RS: Floats, is_new_DR: np.ndarray) -> tuple[Floats, Ints, Ints]:
    """For each deal of the runs, the stretch of steps with the largest sum of (new - baseline's - usual): sum, ends.

    Usual is half of the floor or, where that is more, what the difference at one step varies by.
    """
    known_RS, filled_RS = ~np.isnan(relative_RS), np.nan_to_num(np.clip(relative_RS, None, 10.0))
    weights_DR = is_new_DR.astype(np.float64)
    means = [
        (each @ filled_RS) / np.maximum(each @ known_RS.astype(np.float64), 1.0)
        for each in (weights_DR, 1.0 - weights_DR)
    ]
    differences_DS = means[0] - means[1]
    centred_DS = differences_DS - np.median(differences_DS, axis=1, keepdims=True)
    usual_D1 = np.maximum(1.4826 * np.median(np.abs(centred_DS), axis=1, keepdims=True), FLOOR_PERCENT / 200)
    totals_DS = np.cumsum(np.pad(differences_DS - usual_D1, ((0, 0), (1, 0))), axis=1)
    lowest_DS = np.minimum.accumulate(totals_DS, axis=1)
    last_D = np.argmax(totals_DS - lowest_DS, axis=1)
    rows = np.arange(len(last_D))
    first_D = np.array([int(np.argmin(totals_DS[row, : last_D[row] + 1])) for row in rows])
    return totals_DS[rows, last_D] - totals_DS[rows, first_D], first_D, last_D


def _is_rare(relative_RS: Floats, is_new_R: np.ndarray, found: float) -> bool:
    """Whether fewer than KIND_ERROR of all deals of the runs to two sides have as large a stretch."""
    count, ours = len(is_new_R), int(is_new_R.sum())
    if math.comb(count, ours) <= _DEALS:
        deals = np.zeros((math.comb(count, ours), count), dtype=bool)
        for row, chosen in enumerate(itertools.combinations(range(count), ours)):
            deals[row, list(chosen)] = True
    else:
        random = np.random.default_rng(0)
        deals = np.array([is_new_R, *(random.permutation(is_new_R) for _ in range(_DEALS))])
    as_large = 0
    rows = max(1, _MAX_CELLS // max(1, relative_RS.shape[1]) // 8)
    for part in range(0, len(deals), rows):
        sums, _, _ = _costliest(relative_RS, deals[part : part + rows])
        as_large += int((sums >= found * (1 - 1e-9)).sum())
        if as_large > KIND_ERROR * len(deals):
            return False
    return True


def _trimmed(relative_S: Floats) -> tuple[int, int]:
    """Where the stretch begins and ends without the steps at its ends that are hardly slow."""
    low, high = 0, len(relative_S)
    while high - low > 1 and min(relative_S[low], relative_S[high - 1]) < relative_S[low:high].mean() / 2:
        low, high = (low + 1, high) if relative_S[low] <= relative_S[high - 1] else (low, high - 1)
    return low, high


def _between(run: SteadySteps, start: int, end: int) -> Ints:
    low, high = max(start - run.first, 0), min(end - run.first, len(run.seconds))
    return np.arange(low, max(low, high), dtype=np.int64)


def _stretch_told(
    before: Sequence[SteadySteps], after: Sequence[SteadySteps], slow_before: list[Ints], slow_after: list[Ints]
) -> Finding | None:
    costs, known = _costs(after, slow_after), _costs(before, slow_before)
    change = middle(costs) - middle(known)
    if not _is_solid(after, slow_after):
        return None
    longer = [
        middle([float(run.relative[at].sum()) / len(at) for run, at in zip(runs, slow, strict=True) if len(at)])
        for runs, slow in ((after, slow_after), (before, slow_before))
        if any(map(len, slow))
    ]
    if change < FLOOR_PERCENT or not is_larger(costs, known) or len(longer) < 2:
        return None
    numbers = np.concatenate([run.numbers[at] for run, at in zip(after, slow_after, strict=True)])
    low, high = int(numbers.min()), int(numbers.max())
    which = f"step {low}" if low == high else f"steps {low} to {high}"
    grown = 100 * ((1 + longer[0]) / (1 + longer[1]) - 1)
    sentence = (
        f"{which} took {digits(grown)} % longer than in the baseline, beside the others: {digits(change)} % of the time"
    )
    return Finding("block", sentence, change)


def _is_solid(runs: Sequence[SteadySteps], slow: Sequence[Ints]) -> bool:
    """Whether most steps of the stretch are slow, and not a few here and there in it."""
    inside = np.concatenate([run.relative[at] for run, at in zip(runs, slow, strict=True)])
    return len(inside) > 0 and float(np.mean(inside > inside.mean() / 2)) >= _MIN_SOLID


def _costs(runs: Sequence[SteadySteps], slow: Sequence[Ints]) -> list[float]:
    return [run.cost_percent(at) for run, at in zip(runs, slow, strict=True)]


def find_warmup(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> Finding | None:
    """Slow steps at the start of the new runs that pass for warm-up, beyond where the baseline's warm-up ends."""
    if not is_larger([run.first for run in after], [run.first for run in before]):
        return None
    ended = int(middle([float(run.first) for run in before]))
    costs = [
        100 * float((run.leading[ended:] / run.median - 1).sum()) / (len(run.leading) + len(run.seconds))
        for run in after
    ]
    cost, last = middle(costs), int(middle([float(run.first) for run in after])) - 1
    if cost < FLOOR_PERCENT or last < ended:
        return None
    longer = middle([100 * float(run.leading[ended:].mean() / run.median - 1) for run in after if run.first > ended])
    sentence = (
        f"the warm-up takes {last + 1} steps, {ended} in the baseline: those after {ended} took {digits(longer)} % "
        f"longer than the steady ones, {digits(cost)} % of the time, and no other figure counts them"
    )
    return Finding("warm-up", sentence, cost)


def find_tail(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> Finding | None:
    """Slow steps here and there: the mean is further above the median than in the baseline."""
    means, known = ([100 * float(run.relative.mean()) for run in side] for side in (after, before))
    if not is_larger(means, known):
        return None
    change = middle(means) - middle(known)
    for quantile in (95, 99, 100):
        ends, ended = ([float(np.percentile(run.relative, quantile)) + 1 for run in side] for side in (after, before))
        grown = middle(ends) / middle(ended) - 1
        if grown >= _GROWN:
            break
    if change < FLOOR_PERCENT or grown <= 0:
        return None
    share = "slowest step" if quantile == 100 else f"slowest {100 - quantile} % of the steps (p{quantile})"
    sentence = f"the {share} grew by {digits(100 * grown)} %, beside the median: {digits(change)} % of the time"
    return Finding("tail", sentence, change)


def find_drift(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> Finding | None:
    """Runs that slow down from their first third to their last, as the baseline's do not."""
    long = [[run for run in side if len(run.seconds) >= _MIN_STEPS] for side in (after, before)]
    drifts, known = ([_drift(run) for run in side] for side in long)
    if not is_larger(drifts, known):
        return None
    drift, had = middle(drifts), middle(known)
    alike = sum(each > 0 for each in drifts) / len(drifts)
    if min(drift, drift - had) < _DRIFT_FLOOR_PERCENT or alike < _MIN_ALIKE:
        return None
    # a steady slope makes the mean step half as much longer as the last
    cost = (drift - max(had, 0.0)) / 2
    there = f", {digits(had, sign=True)} % in the baseline" if abs(had) >= _DRIFT_FLOOR_PERCENT else ""
    sentence = f"steps get slower within each run: {digits(drift, sign=True)} % from the first third to the last{there}"
    return Finding("drift", sentence, cost)


def _drift(run: SteadySteps) -> float:
    """Percent from the median of the first third to that of the last."""
    third = len(run.seconds) // 3
    return 100 * (middle(run.seconds[-third:]) / middle(run.seconds[:third]) - 1)

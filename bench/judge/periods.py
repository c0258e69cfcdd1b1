"""Steps that are slow at a fixed period: a checkpoint, a garbage collection, a log that is flushed.

Slow are the steps above a run's own usual range. A period is told if it explains most of what the slow steps cost, if
nearly every step at it is slow, in one phase in all runs, and if that many could hardly fall on one by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from bench.judge.findings import FLOOR_PERCENT, Finding, Floats, Ints, SteadySteps, digits, is_larger, middle

_SIGMAS = 3.0
_LEAST_EXCESS = 0.01  # of the median: clocks tick, and a step within a percent is not slow in any run
_MIN_OCCURRENCES = 3
_MIN_HITS = 0.8  # of the steps at the period
_MIN_EXPLAINED = 0.6  # of what the slow steps cost
_CHANCE = 0.1
_MOST_SPREAD = 4
_MAX_PERIODS = 40  # that are tried, those that most pairs of slow steps are apart by


@dataclass(frozen=True, eq=False)
class Periodic:
    """Slow steps at one period. `slow_after` and `slow_before` mark those of each run, for other searches to leave."""

    finding: Finding | None  # None where the baseline has the like at the same cost
    slow_after: list[Ints]
    slow_before: list[Ints]


@dataclass(frozen=True, eq=False)
class _Class:
    """All steps at one place of one period, in units of the grid that the step numbers are on."""

    period: int
    place: int
    explained: float
    hits: int


@dataclass(frozen=True, eq=False)
class _Slow:
    """The runs' steps on one grid, and what the slow ones of each run exceed the median by."""

    stride: int
    origin: int
    places: list[Ints]
    excess: list[Floats]

    @property
    def number(self) -> int:
        return sum(int((each > 0).sum()) for each in self.excess)

    @property
    def is_dense(self) -> bool:
        """Whether most places of each run have a step: a log with large holes has no period to speak of."""
        return all(int(each[-1] - each[0]) < _MOST_SPREAD * len(each) for each in self.places)

    @property
    def steps(self) -> int:
        return sum(len(each) for each in self.excess)


def excess_of(run: SteadySteps) -> Floats:
    """How far each slow step is above the median, in medians; 0 for the others."""
    return np.where(run.relative > max(_SIGMAS * run.spread, _LEAST_EXCESS), run.relative, 0.0)


def find_periodic(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> Periodic | None:
    """The period at which most of the time of slow steps is spent in the new runs; None where there is none."""
    slow = _on_one_grid(after)
    if slow.number < _MIN_OCCURRENCES or not slow.is_dense:
        return None
    if float(np.mean(_costs(after, [np.flatnonzero(each) for each in slow.excess]))) < FLOOR_PERCENT:
        return None
    found = [each for period in _likely_periods(slow) if (each := _class_of(slow, period)) is not None]
    if not found:
        return None
    best = max(found, key=lambda each: (round(each.explained, 2), each.period))
    return _told(before, after, slow, best)


def _on_one_grid(runs: Sequence[SteadySteps]) -> _Slow:
    """Step numbers may be apart by a log's interval."""
    origin = min(int(run.numbers[0]) for run in runs)
    gaps = [np.gcd.reduce(np.append(np.diff(run.numbers), int(run.numbers[0]) - origin)) for run in runs]
    stride = max(int(np.gcd.reduce(gaps)), 1)
    places = [(run.numbers - origin) // stride for run in runs]
    return _Slow(stride, origin, places, [excess_of(run) for run in runs])


def _likely_periods(slow: _Slow) -> list[int]:
    """The distances between slow steps of one run, the most frequent first."""
    longest = max(int(places[-1] - places[0]) for places in slow.places)
    pairs = np.zeros(longest + 1)
    for places, excess in zip(slow.places, slow.excess, strict=True):
        is_slow = np.zeros(2 * (longest + 1))
        is_slow[places[excess > 0] - places[0]] = 1.0
        pairs += np.fft.irfft(np.square(np.abs(np.fft.rfft(is_slow))))[: longest + 1]
    pairs = np.rint(pairs)
    pairs[:2] = 0.0
    order = np.argsort(-pairs, kind="stable")[:_MAX_PERIODS]
    return [int(period) for period in order if pairs[period] > 0]


def _class_of(slow: _Slow, period: int) -> _Class | None:
    """The costliest place of a period, if it is one that may be told."""
    by_place = sum(
        np.bincount(places % period, weights=excess, minlength=period)
        for places, excess in zip(slow.places, slow.excess, strict=True)
    )
    place = int(np.argmax(by_place))
    explained = float(np.max(by_place) / np.sum(by_place))
    in_class = [excess[places % period == place] for places, excess in zip(slow.places, slow.excess, strict=True)]
    members, hits = sum(map(len, in_class)), [int((each > 0).sum()) for each in in_class]
    able = sum(len(each) > 1 for each in in_class)  # runs that are long enough to show it
    is_regular = sum(hits) >= _MIN_HITS * members and 2 * sum(each > 1 for each in hits) >= max(able, 1)
    if explained < _MIN_EXPLAINED or not is_regular or sum(hits) < _MIN_OCCURRENCES:
        return None
    # Any two slow steps make a period: the others fall on it by chance, each as often as steps are about as slow.
    together = np.concatenate(in_class)
    alike = max(sum(hits), sum(int((each >= middle(together[together > 0]) / 2).sum()) for each in slow.excess))
    chance = float(scipy.special.bdtrc(sum(hits) - 3, members - 2, alike / slow.steps))
    if chance * alike * (alike - 1) / 2 > _CHANCE:
        return None
    return _Class(period, place, explained, sum(hits))


def _told(before: Sequence[SteadySteps], after: Sequence[SteadySteps], slow: _Slow, best: _Class) -> Periodic:
    slow_after = [
        np.flatnonzero((places % best.period == best.place) & (excess > 0))
        for places, excess in zip(slow.places, slow.excess, strict=True)
    ]
    slow_before = _in_baseline(before, best.period)
    costs, known = _costs(after, slow_after), _costs(before, slow_before)
    cost, had = middle(costs), middle(known) if known else 0.0
    is_new = not known or (is_larger(costs, known) if len(costs) > 2 else min(costs) > 1.5 * max(known))
    if cost - had < FLOOR_PERCENT or not is_new:
        return Periodic(None, slow_after, slow_before)
    times = 1 + middle(np.concatenate([run.relative[at] for run, at in zip(after, slow_after, strict=True)]))
    numbers = sorted({int(number) for run, at in zip(after, slow_after, strict=True) for number in run.numbers[at]})
    steps = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    sentence = (
        f"every {_ordinal(best.period * slow.stride)} step takes {digits(times)} times the median (steps {steps}): "
        f"{digits(cost)} % of the time" + (f", {digits(had)} % in the baseline" if had >= FLOOR_PERCENT else "")
    )
    return Periodic(Finding("periodic", sentence, cost - had), slow_after, slow_before)


def _in_baseline(before: Sequence[SteadySteps], period: int) -> list[Ints]:
    """The slow steps at the place of this period that cost the baseline most: it may count from another number."""
    if not before:
        return []
    slow = [excess_of(run) for run in before]
    places = [(run.first + np.arange(len(run.seconds))) % period for run in before]
    by_place = sum(np.bincount(at, weights=each, minlength=period) for at, each in zip(places, slow, strict=True))
    place = int(np.argmax(by_place))
    return [np.flatnonzero((at == place) & (each > 0)) for at, each in zip(places, slow, strict=True)]


def _costs(runs: Sequence[SteadySteps], slow: Sequence[Ints]) -> list[float]:
    return [run.cost_percent(at) for run, at in zip(runs, slow, strict=True)]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

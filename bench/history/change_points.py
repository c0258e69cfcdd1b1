"""Where the level of a history of runs changed: a monitor for people, not a gate.

It works on logarithms, so that sizes are ratios. PELT (Killick et al. 2012; the library `ruptures`) cuts the runs into
levels, wherever a cut lessens the sum of squares by more than a penalty: a multiple of the variance of equal runs
(bench.history.noise). A cut stays only where its two sides differ: by the floor, by the noise near it, by what days
differ, and in nearly all pairs of runs. Measured error rates: docs/history.md.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from bench.history.noise import Days, Floats, day_sigma, noise_of, scatter, without_spikes
from bench.history.store import Entry
from bench.records.fields import utc_moment

LEAST_RUNS = 3  # of a level
_LEAST_RUNS_WITHIN = 4  # of one that is left again the way it came; the last level may turn out to be one
NEAR_RUNS = 30  # on either side: what a change is measured by, so that a slow drift counts little
FLOOR_PERCENT = 2.0  # a smaller change is not reported
PENALTY = 30.0  # variances of equal runs
_LEAST_SIGMAS = 2.0  # of the quieter side
_LEAST_DAY_SIGMAS = 3.0
_LEAST_AGREEMENT = 0.85
_SURE_STRENGTH = 2.0
_WINDOW_RUNS = 400  # cut at once; a longer history is cut in windows, each half over the next

Sureness = Literal["likely", "sure"]
_Array = TypeVar("_Array", Floats, Days)


@dataclass(frozen=True)
class ChangePoint:
    """Where the time of a step changed: between the commits of run `at` - 1 and run `at` (an index).

    The two times are medians of the nearest 30 runs of each level.
    """

    at: int
    before_seconds: float
    after_seconds: float
    runs: tuple[int, int]  # of the level before and of the level after
    agreement: float = 1.0  # share of pairs of these runs, one from each side, that differ the same way
    sureness: Sureness = "sure"

    @property
    def percent(self) -> float:
        return 100 * (self.after_seconds / self.before_seconds - 1)


@dataclass(frozen=True)
class Cut:
    """A change in logarithms: the run at which the new level begins, and how far it stands out."""

    at: int
    step: float  # between the medians of the nearest runs
    agreement: float  # see ChangePoint
    strength: float  # what the cut is worth, in penalties


@dataclass
class _History:
    """Of each run: its value in logarithms, its day, and the penalty of a cut there."""

    values: Floats
    days: Days
    day_sigma: float
    penalties: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.penalties = np.empty(len(self.values))


def change_points(series: Sequence[Entry]) -> list[ChangePoint]:
    """The changes of the step's time, of runs in the order of time."""
    seconds = np.array([entry.step_seconds for entry in series])
    cuts = cuts_of(seconds, np.array([utc_moment(entry.created_at).toordinal() for entry in series]))
    edges = [0, *(cut.at for cut in cuts), len(seconds)]
    return [_change_point(seconds, edges[i], cut, edges[i + 2]) for i, cut in enumerate(cuts)]


def _change_point(seconds: Floats, start: int, cut: Cut, end: int) -> ChangePoint:
    before, after = (float(np.median(side)) for side in _sides(seconds, start, cut.at, end))
    return ChangePoint(cut.at, before, after, (cut.at - start, end - cut.at), cut.agreement, sureness_of(cut))


def sureness_of(cut: Cut) -> Sureness:
    """How often each of them is right: docs/history.md."""
    return "sure" if cut.strength >= _SURE_STRENGTH else "likely"


def cuts_of(seconds: Floats, days: Days | None = None) -> list[Cut]:
    """The changes of positive figures in the order of time; `days` are those of the runs, if they are known."""
    if len(seconds) < 2 * LEAST_RUNS or np.ptp(seconds) == 0:
        return []
    values = np.log(seconds)
    days = np.arange(len(values)) if days is None else days
    history = _History(values, days, day_sigma(values, days))
    return _that_hold(history, _candidates(history))


def _candidates(history: _History) -> list[int]:
    """Where PELT cuts; fills in the penalties. Of windows that overlap, each counts but for a quarter at its ends."""
    runs, half = len(history.values), _WINDOW_RUNS // 2
    starts = range(0, max(runs - half, 1), half)
    found: list[int] = []
    for start in starts:
        window = history.values[start : start + _WINDOW_RUNS]
        first = start + (half // 2 if start else 0)
        last = start + half + half // 2 if start != starts[-1] else runs
        cuts, penalty = _cut(window)
        history.penalties[first:last] = penalty
        found += [start + cut for cut in cuts if first <= start + cut < last]
    return found


def _cut(values: Floats) -> tuple[list[int], float]:
    smooth = without_spikes(values)
    penalty = PENALTY * noise_of(smooth).variance
    import ruptures  # loads as slowly as scipy.stats does, and other commands do without

    search = ruptures.KernelCPD(kernel="linear", min_size=LEAST_RUNS).fit(smooth.reshape(-1, 1))
    return [int(end) for end in search.predict(pen=penalty)[:-1]], penalty


def _that_hold(history: _History, places: Sequence[int]) -> list[Cut]:
    """The cuts that are left when, of those that do not hold, the weakest near by is taken away, again and again."""
    judged = functools.cache(functools.partial(_judged, history))
    left = list(places)
    while True:
        edges = [0, *left, len(history.values)]
        cuts = [judged(edges[i], at, edges[i + 2]) for i, at in enumerate(left)]
        held = [holds and not burst for (_, holds), burst in zip(cuts, _bursts([cut for cut, _ in cuts]), strict=True)]
        weakness = [
            math.inf if holds else abs(cut.step) * (cut.agreement - 0.5)
            for (cut, _), holds in zip(cuts, held, strict=True)
        ]
        around = [math.inf, *weakness, math.inf]
        gone = [i for i, own in enumerate(weakness) if own < math.inf and around[i] > own <= around[i + 2]]
        if not gone:
            return [cut for cut, _ in cuts]
        left = [at for i, at in enumerate(left) if i not in set(gone)]


def _bursts(cuts: Sequence[Cut]) -> list[bool]:
    """Which cuts begin or end a few runs that differ from both neighbours the same way, up or down."""
    found = [False] * len(cuts)
    for place, (cut, following) in enumerate(itertools.pairwise(cuts)):
        if following.at - cut.at < _LEAST_RUNS_WITHIN and cut.step * following.step < 0:
            found[place] = found[place + 1] = True
    return found


def _judged(history: _History, start: int, at: int, end: int) -> tuple[Cut, bool]:
    """The cut at a run, between its neighbours, and whether it holds."""
    left, right = _sides(history.values, start, at, end)
    step = float(np.median(right) - np.median(left))
    agreement = float(0.5 + np.mean(np.sign(right[:, None] - left[None, :])) * np.sign(step) / 2)
    least = max(
        math.log1p(FLOOR_PERCENT / 100),
        _LEAST_SIGMAS * min(scatter(left), scatter(right)),
        _least_between_days(history, start, at, end),
    )
    worth = step**2 * len(left) * len(right) / (len(left) + len(right))
    return (
        Cut(at, step, agreement, worth / float(history.penalties[at])),
        abs(step) >= least and agreement >= _LEAST_AGREEMENT and _is_whole(left, right, step),
    )


def _is_whole(left: Floats, right: Floats, step: float) -> bool:
    """Whether a side of only three runs is one of three: two bad runs and a usual one are no level."""
    middle = float(np.median(left) + np.median(right)) / 2
    sides = ((left, -step), (right, step))
    return all(len(side) > LEAST_RUNS or bool(np.all((side - middle) * away > 0)) for side, away in sides)


def _least_between_days(history: _History, start: int, at: int, end: int) -> float:
    """The least step of a cut that lies where a day ends, give or take a run."""
    if history.days[max(at - 2, start)] == history.days[min(at + 1, end - 1)]:
        return 0.0
    counts = [len(np.unique(side)) for side in _sides(history.days, start, at, end)]
    return _LEAST_DAY_SIGMAS * history.day_sigma * math.sqrt(sum(1 / count for count in counts))


def _sides(values: _Array, start: int, at: int, end: int) -> tuple[_Array, _Array]:
    """The nearest runs on either side of a cut."""
    return values[max(start, at - NEAR_RUNS) : at], values[at : min(end, at + NEAR_RUNS)]

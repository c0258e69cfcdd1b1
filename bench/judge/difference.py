"""How far apart two sides' runs are, and with what error: within one session, across sessions, or in pairs.

The unit is the run, not the step: steps of one run depend on one another. Times are compared as logarithms, so that a
change is a ratio. Within one session the runs of both sides could be exchanged, and Student's t judges them. Another
session (another day, boot or job) has a level of its own on top, which no number of runs in one session can show: it is
known from a baseline of several sessions, or else assumed. Pure functions, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

MIN_BASELINE_RUNS = 5
MIN_PAIRS = 3
MIN_SESSIONS = 5  # of a baseline that knows its own level between sessions; fewer need an assumed one
# Degrees of freedom that the variance of one side borrows from the other side's: none is Welch's test, all is the
# pooled one. 20 quiet runs against 3 of three times the noise fail 2 % of the time (pooled 13 %), and equal sides of
# five lose nothing.
BORROWED = 0.5
_MIN_RUNS_OF_OWN_NOISE = 3
# Where runs of one session vary more than sessions are assumed to, sessions are assumed to vary as much: this share of
# it. On recorded noise, five runs against later five, in the order of time (docs/gate-errors.md).
SHARE_OF_RUN_SPREAD = 1.0
# Two runs can be equal by chance, or to the clock's last digit: below this spread nothing is known to be quieter.
_LEAST_SPREAD = 1e-4

_ASSUMED = "assumed"


def limits_percent(tolerance_percent: float) -> tuple[float, float]:
    """A tolerance of tokens a second, in seconds: 5 % fewer are 5.26 % longer steps, 5 % more are 4.76 % shorter."""
    return 100 * tolerance_percent / (100 - tolerance_percent), 100 * tolerance_percent / (100 + tolerance_percent)


LIMIT_PERCENT = limits_percent(5.0)[0]  # of step seconds
FLOOR_PERCENT = 1.0  # a smaller change is of no practical interest, however sure it is


@dataclass(frozen=True)
class Comparison:
    """One metric's figures, one a run, of two sides; better when smaller.

    `whole` None: figures are positive and a change is a ratio. Else figures are parts of `whole`, as seconds of a step
    are, and a change is a share of it. Paired runs were taken side by side, the first with the first.

    `sessions` names the session of each run of either side; None: all are of one. `session_spread` is the assumed level
    between sessions, one standard deviation on the tested scale (0.01 is 1 %); 0: the metric has none. `session_origin`
    says in words where it is from. `resolution` is the clock's tick on that scale: no difference below it is known.
    Comparisons of one `group` ask one question in several ways, and share its error. `whole_change_percent` is how the
    whole changed, for a figure that is a part of it: what moved from part to part is neither lost nor gained.
    """

    before: Sequence[float]
    after: Sequence[float]
    whole: float | None = None
    weight: float = 1.0  # of the family's error
    limit_percent: float = LIMIT_PERCENT  # a slowdown that must be ruled out
    floor_percent: float = FLOOR_PERCENT  # a smaller change does not matter, however sure
    is_paired: bool = False
    sessions: tuple[Sequence[str], Sequence[str]] | None = None
    session_spread: float = 0.0
    session_origin: str = _ASSUMED
    resolution: float = 0.0
    group: Hashable = None
    whole_change_percent: float | None = None

    @property
    def is_across_sessions(self) -> bool:
        """Whether the level of a session stands between the two sides."""
        return self.sessions is not None and self.session_spread > 0 and len({*self.sessions[0], *self.sessions[1]}) > 1


@dataclass(frozen=True)
class Error:
    """A standard error and its degrees of freedom."""

    size: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """A change on the tested scale, and its error.

    `within` is the error that the change would have if both sides were of one session; None where they are.
    """

    change: float
    error: Error
    spread: float  # between runs of one session, one standard deviation
    resolution: float
    within: Error | None = None
    session_spread: float = 0.0  # that was reckoned with
    is_session_spread_known: bool = False  # by the baseline's own sessions
    session_origin: str = _ASSUMED  # of the spread that was reckoned with


def difference(comparison: Comparison) -> Difference:
    """The change from one side to the other.

    Raises:
        ValueError: too few runs for a between-run variance, or a figure that cannot be one.
    """
    _check(comparison)
    before, after = (_scaled(side, comparison.whole) for side in (comparison.before, comparison.after))
    if comparison.is_paired:
        return _paired(before, after, comparison.resolution)
    if comparison.sessions is None or not comparison.is_across_sessions:
        return _within(before, after, comparison.resolution)
    sides = (_by_session(before, comparison.sessions[0]), _by_session(after, comparison.sessions[1]))
    return _across(*sides, comparison)


def foreseen(comparison: Comparison, ours: int) -> Error:
    """The error of the change if ours were so many runs of one session, as noisy as those that are known of both sides.

    Where no session has two runs, they are taken to be as noisy as sessions are.
    """
    before, after = (_scaled(side, comparison.whole) for side in (comparison.before, comparison.after))
    if comparison.sessions is None or not comparison.is_across_sessions:
        noise = _pooled(*(_Noise(_squares(side), len(side) - 1) for side in (before, after)))
        return Error(math.sqrt(noise.variance * (1 / len(before) + 1 / ours)), len(before) + ours - 2)
    theirs = _by_session(before, comparison.sessions[0])
    noise = _pooled(theirs.noise, _by_session(after, comparison.sessions[1]).noise)
    if not noise.freedom:
        noise = _Noise(_squares(theirs.means), len(theirs.means) - 1)
    return _across(theirs, _Side([0.0], [ours], _Noise(noise.variance * (ours - 1), ours - 1)), comparison).error


def _check(comparison: Comparison) -> None:
    before, after = comparison.before, comparison.after
    least = (MIN_PAIRS, MIN_PAIRS) if comparison.is_paired else (MIN_BASELINE_RUNS, 1)
    if len(before) < least[0] or len(after) < least[1]:
        raise ValueError(
            f"{len(before)} baseline runs and {len(after)} of ours: at least {least[0]} and {least[1]} are needed"
        )
    if comparison.is_paired and len(before) != len(after):
        raise ValueError(f"{len(before)} runs of one revision and {len(after)} of the other do not make pairs")
    if comparison.sessions is not None and tuple(map(len, comparison.sessions)) != (len(before), len(after)):
        raise ValueError("every run has one session")
    lowest = 0.0 if comparison.whole is None else -math.inf
    if not all(math.isfinite(value) and value > lowest for value in (*before, *after)):
        raise ValueError("a run's figure is not a positive number")


def _scaled(values: Sequence[float], whole: float | None) -> list[float]:
    """A few numbers, so a list: numpy would take four times as long."""
    return [math.log(value) for value in values] if whole is None else [value / whole for value in values]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _squares(values: Sequence[float]) -> float:
    """Of the distances from the mean."""
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _paired(before: Sequence[float], after: Sequence[float], resolution: float) -> Difference:
    changes = np.asarray(after) - np.asarray(before)
    spread = max(float(changes.std(ddof=1)), _LEAST_SPREAD)
    return Difference(
        float(changes.mean()), Error(spread / math.sqrt(len(changes)), len(changes) - 1), spread, resolution
    )


# ---- one session ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Noise:
    """A sum of squares between runs and its degrees of freedom."""

    squares: float
    freedom: float

    @property
    def variance(self) -> float:
        return max(self.squares / self.freedom, _LEAST_SPREAD**2) if self.freedom else _LEAST_SPREAD**2


def _within(before: Sequence[float], after: Sequence[float], resolution: float) -> Difference:
    noise = [_Noise(_squares(side), len(side) - 1) for side in (before, after)]
    variances = _variances(*noise)
    error = _sum_of(
        [
            Error(math.sqrt(each.variance / len(side)), each.freedom)
            for each, side in zip(variances, (before, after), strict=True)
        ]
    )
    capped = Error(error.size, min(error.freedom, len(before) + len(after) - 2))
    return Difference(_mean(after) - _mean(before), capped, math.sqrt(_pooled(*noise).variance), resolution)


def _pooled(one: _Noise, other: _Noise) -> _Noise:
    return _Noise(one.squares + other.squares, one.freedom + other.freedom)


def _variances(before: _Noise, after: _Noise) -> tuple[_Noise, _Noise]:
    """Of each side, a little of it borrowed from the other; of too few runs to tell, the noise of both together."""
    if min(before.freedom, after.freedom) < _MIN_RUNS_OF_OWN_NOISE - 1:
        pooled = _pooled(before, after)
        return pooled, pooled
    return (
        _Noise(before.squares + BORROWED * after.variance, before.freedom + BORROWED),
        _Noise(after.squares + BORROWED * before.variance, after.freedom + BORROWED),
    )


def _sum_of(parts: Sequence[Error]) -> Error:
    """Of independent errors, with Satterthwaite's degrees of freedom."""
    square = math.fsum(part.size**2 for part in parts)
    doubt = math.fsum(part.size**4 / part.freedom for part in parts)
    return Error(math.sqrt(square), square**2 / doubt if doubt else math.inf)


# ---- several sessions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """The runs of one side by session: the mean and the number of runs of each, and the noise within them."""

    means: Sequence[float]
    counts: Sequence[int]
    noise: _Noise

    @property
    def runs_per_session(self) -> float:
        """The harmonic mean: the variance of a session's mean, over all sessions, is that of a run by this."""
        return len(self.counts) / math.fsum(1 / count for count in self.counts)


def _by_session(values: Sequence[float], sessions: Sequence[str]) -> _Side:
    found: dict[str, list[float]] = {}
    for session, value in zip(sessions, values, strict=True):
        found.setdefault(session, []).append(value)
    of_runs = _Noise(math.fsum(map(_squares, found.values())), len(values) - len(found))
    return _Side([_mean(each) for each in found.values()], [len(each) for each in found.values()], of_runs)


def _across(before: _Side, after: _Side, comparison: Comparison) -> Difference:
    """The mean session of one side against that of the other: a session, not a run, is what could be exchanged."""
    of_runs = [
        _Noise(noise.squares / side.runs_per_session, noise.freedom)
        for noise, side in zip(_variances(before.noise, after.noise), (before, after), strict=True)
    ]  # the variance of a session's mean that its runs explain
    numbers = len(before.means), len(after.means)
    known = _between(before, after)
    if numbers[0] >= MIN_SESSIONS:
        error = _sum_of(_errors_where_known(known, of_runs, numbers))
        spread = math.sqrt(max(known.variance - of_runs[0].variance, 0.0))
    else:
        seen = known.variance - _mean([each.variance for each in of_runs]) if known.freedom else 0.0
        runs = _pooled(before.noise, after.noise).variance
        spread = math.sqrt(max(comparison.session_spread**2, SHARE_OF_RUN_SPREAD**2 * runs, seen))
        error = _sum_of(
            [Error(spread * math.sqrt(1 / numbers[0] + 1 / numbers[1]), math.inf), *_errors_of_runs(of_runs, numbers)]
        )
    return Difference(
        change=_mean(after.means) - _mean(before.means),
        error=error,
        spread=math.sqrt(_pooled(before.noise, after.noise).variance),
        resolution=comparison.resolution,
        within=_sum_of(_errors_of_runs(of_runs, numbers)),
        session_spread=spread,
        is_session_spread_known=numbers[0] >= MIN_SESSIONS,
        session_origin=comparison.session_origin if math.isclose(spread, comparison.session_spread) else _ASSUMED,
    )


def _between(before: _Side, after: _Side) -> _Noise:
    """Of the means of the sessions of one side, both sides together."""
    squares = _squares(before.means) + _squares(after.means)
    return _Noise(squares, len(before.means) + len(after.means) - 2)


def _errors_of_runs(of_runs: Sequence[_Noise], numbers: tuple[int, int]) -> list[Error]:
    return [
        Error(math.sqrt(each.variance / number), max(each.freedom, 1.0))
        for each, number in zip(of_runs, numbers, strict=True)
    ]


def _errors_where_known(known: _Noise, of_runs: Sequence[_Noise], numbers: tuple[int, int]) -> list[Error]:
    """A session of ours varies as one of the baseline's does, and more if it has fewer runs or noisier ones."""
    found = [Error(math.sqrt(known.variance * (1 / numbers[0] + 1 / numbers[1])), known.freedom)]
    more = of_runs[1].variance - of_runs[0].variance
    if more > 0:
        found.append(Error(math.sqrt(more / numbers[1]), max(of_runs[1].freedom, 1.0)))
    return found

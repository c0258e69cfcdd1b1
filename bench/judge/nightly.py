"""Has a program become slower since its baseline, asked every night? One error for all nights together.

A gate that is asked every night errs every night. This monitor may be asked as often as one likes: the chance that it
ever calls an unchanged program slower, over all nights to come, is at most ERROR. An e-value is what a bet against
"nothing changed" has made of 1. Its mean under "nothing changed" is at most 1 at any time that one stops, so that it
ever reaches 1 / ERROR with a chance of at most ERROR (Ville's inequality, 1939).

The unit is the session: the mean of the logarithms of its runs' figures. "Nothing changed" says that the sessions of
the baseline and the nights after it are normal with one mean and one variance, both unknown. The alternative of night j
says that the nights from j on are slower by d standard deviations between sessions, d half-normal with the scale
EFFECT_SCALE. What of the data does not depend on the unknown mean and variance (the maximal invariant of shift and
scale) has one density under each of the two. Their ratio is a non-negative martingale in the filtration of that
invariant, and is 1 before the first night: Perez-Ortiz, Lardy, de Heide and Gruenwald 2024, "E-statistics, group
invariance and anytime-valid testing" (the safe t-test, a Bayes factor with right-Haar priors). Integrated over d, with
N sessions in all, n = N - 1 and g = EFFECT_SCALE squared:

    r = c / sqrt(S)      c the sum of the centred values from night j on, S the sum of squares of all centred values
    h = a b / N          a sessions before night j, b from it on
    s = g / (1 + g h)
    E_j = 2 T(r sqrt(n s / (1 - s r^2))) (1 + g h)^(-1/2) (1 - s r^2)^(-n/2)     T: Student's distribution, n degrees

All E_j are martingales of one filtration, so their sum weighted by 1 / (j (j + 1)) is one: these weights sum to 1 over
all nights. What is reported is at most that, which keeps the error: the least of the value of all nights and the value
without the slowest of them, so that no single bad night makes an alarm; and of two figures the larger e-value, halved
(Bonferroni; their mean would need a common filtration). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from bench.judge.difference import FLOOR_PERCENT

Floats = npt.NDArray[np.float64]

ERROR = 0.01
EFFECT_SCALE = 2.0
# Sessions can be equal to the clock's last digit by chance: no spread is known to be smaller (a logarithm).
_LEAST_SPREAD = 1e-4
_LEAST_SHARE = 1e-300  # of Student's distribution: it has a logarithm


@dataclass(frozen=True)
class Series:
    """One figure: the means of the logarithms of the runs of each session, and the clock's tick on that scale."""

    before: Sequence[float]
    nights: Sequence[float]
    resolution: float = 0.0


@dataclass(frozen=True)
class Watch:
    """What the nights until `night` say. Nights are numbered from 1; changes are in percent, + is slower.

    `since` is the most probable first slow night, and `change_percent` how much slower the nights from it on are than
    all sessions before. None: no night yet.
    """

    night: int
    e_value: float
    since: int | None = None
    change_percent: float = 0.0
    figure: str | None = None


def watch(figures: Mapping[str, Series], night: int | None = None) -> Watch:
    """The evidence of the nights until `night` (default: all) that the program is slower.

    Raises:
        ValueError: a baseline of fewer than two sessions, or a figure that is no number.
    """
    found = [_watch(name, _until(series, night)) for name, series in figures.items()]
    best = max(found, key=lambda each: each.e_value)
    return Watch(best.night, best.e_value / len(found), best.since, best.change_percent, best.figure)


def first_alarm(
    figures: Mapping[str, Series], error: float = ERROR, floor_percent: float = FLOOR_PERCENT
) -> Watch | None:
    """The first night at which the e-value reaches 1 / error, for a slowdown of more than the floor."""
    nights = min(len(series.nights) for series in figures.values())
    watches = (watch(figures, night) for night in range(1, nights + 1))
    return next((each for each in watches if each.e_value >= 1 / error and each.change_percent > floor_percent), None)


def _until(series: Series, night: int | None) -> Series:
    return Series(series.before, series.nights[:night], series.resolution)


def _watch(name: str, series: Series) -> Watch:
    values = np.asarray([*series.before, *series.nights], dtype=np.float64)
    if len(series.before) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{name}: {len(series.before)} sessions of a baseline, at least 2 needed, all of them numbers")
    nights = len(series.nights)
    if nights == 0:
        return Watch(0, 1.0)
    terms = _log_e_values(values, nights, series.resolution)
    slowest = len(series.before) + int(np.argmax(series.nights))
    without = _log_e_values(np.delete(values, slowest), nights - 1, series.resolution)
    since = int(np.argmax(terms)) + 1
    first = len(series.before) + since - 1
    change = float(values[first:].mean() - values[:first].mean())
    return Watch(nights, min(_sum(terms), _sum(without)), since, 100 * math.expm1(change), name)


def _log_e_values(values: Floats, nights: int, resolution: float) -> Floats:
    """The logarithm of the weighted e-value of each night at which a slowdown may have begun; the last are the nights.

    A spread or a tick that is reckoned with makes an e-value smaller, never larger.
    """
    whole, n, g = len(values), len(values) - 1, EFFECT_SCALE**2
    first = np.arange(1, nights + 1)
    later = nights + 1 - first
    h = later * (whole - later) / whole
    centred = values - values.mean()
    slower = np.cumsum(centred[::-1])[:nights][::-1] - resolution * h
    squares = float(centred @ centred) + np.where(slower > 0, whole * _LEAST_SPREAD**2, np.finfo(float).tiny)
    r = slower / np.sqrt(squares)
    s = g / (1 + g * h)
    left = 1 - s * np.minimum(np.square(r), h)
    share = special.stdtr(n, r * np.sqrt(n * s / left))
    log_e = np.log(np.maximum(2 * share, _LEAST_SHARE)) - np.log1p(g * h) / 2 - n / 2 * np.log(left)
    return np.asarray(log_e - np.log(first * (first + 1)))


def _sum(logarithms: Floats) -> float:
    """Of the weighted e-values; alternatives that begin later are 1 so far, and keep their weight."""
    rest = 1 / (len(logarithms) + 1)
    return rest + float(np.exp(np.minimum(logarithms, 700.0)).sum())

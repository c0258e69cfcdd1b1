"""Histories with known changes, of the kinds of noise that benchmarks on shared machines show; seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy

from bench.history.noise import Days, Floats

Kind = Literal[
    "independent",
    "heavy tails",
    "spikes",
    "correlated 0.3",
    "correlated 0.6",
    "sessions",
    "days",
    "two modes",
    "drift",
    "uneven",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
EQUAL: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in ("drift", "uneven"))

_LEAST_LEVEL_RUNS = 7
_SEEN_SIGMAS = 2.5  # a smaller step is hidden in the noise of a few runs


@dataclass(frozen=True)
class History:
    """Seconds of a step in the order of time, the runs at which a new level begins, and the day of each run."""

    seconds: Floats
    changes: tuple[int, ...]
    days: Days


def equal_runs(random: np.random.Generator, kind: Kind, runs: int) -> History:
    """Runs without any change, whose noise is 0.5 to 3 %."""
    noise, days = _noise(random, kind, runs)
    return History(2.0 * np.exp(_between(random, 0.005, 0.03) * noise), (), days)


def changing(random: np.random.Generator, kind: Kind) -> History:
    """30 to 300 runs, noise of 0.3 to 5 %, up to four steps of 2 to 30 %; one step in five lies near the end."""
    runs, sigma = int(_between(random, 30, 300)), _between(random, 0.003, 0.05)
    noise, days = _noise(random, kind, runs)
    values, changes = sigma * noise, _places(random, runs, min(int(random.integers(5)), runs // 14))
    for at in changes:
        size = _between(random, max(0.02, _SEEN_SIGMAS * sigma), max(0.30, (_SEEN_SIGMAS + 1) * sigma))
        values[at:] += size * random.choice([-1, 1])
    return History(2.0 * np.exp(values), tuple(changes), days)


def _between(random: np.random.Generator, low: float, high: float) -> float:
    """Any order of magnitude is as likely."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _places(random: np.random.Generator, runs: int, count: int) -> list[int]:
    found: list[int] = []
    for _ in range(100):
        late = random.random() < 0.2
        place = runs - int(random.integers(6, 9)) if late else int(random.integers(8, runs - 5))
        if len(found) < count and all(abs(place - other) >= _LEAST_LEVEL_RUNS for other in found):
            found.append(place)
    return sorted(found)


def _noise(random: np.random.Generator, kind: Kind, runs: int) -> tuple[Floats, Days]:
    """Of a standard deviation of about one; a day holds one run, where days do not matter."""
    days, normal = np.arange(runs), random.normal(size=runs)
    if kind == "heavy tails":
        return random.standard_t(3, size=runs) / np.sqrt(3), days
    if kind == "spikes":
        return normal + (random.random(runs) < random.uniform(0.02, 0.08)) * random.exponential(8, runs), days
    if kind in ("correlated 0.3", "correlated 0.6"):
        return _correlated(random, runs, 0.3 if kind == "correlated 0.3" else 0.6), days
    if kind in ("sessions", "days"):
        parts = np.repeat(
            np.arange(runs), random.integers(1, 9, runs) if kind == "sessions" else random.integers(4, 11)
        )
        levels = random.uniform(0.4, 1.0) * random.normal(size=runs)
        return 0.7 * normal + levels[parts[:runs]], parts[:runs] if kind == "days" else days
    if kind == "two modes":
        return 0.5 * normal + 2.5 * (random.random(runs) < random.uniform(0.1, 0.35)), days
    if kind == "drift":
        return normal + np.interp(days, np.linspace(0, runs, 5), 0.8 * random.normal(size=5)), days
    if kind == "uneven":
        return normal * np.where(days < random.integers(runs), random.uniform(0.4, 0.8), random.uniform(1, 2)), days
    return normal, days


def _correlated(random: np.random.Generator, runs: int, correlation: float) -> Floats:
    """Each run resembles the one before it."""
    fresh = np.sqrt(1 - correlation**2) * random.normal(size=runs + 50)
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -correlation], fresh)[50:])

"""From step times to places in a picture: higher is faster, and both units stand beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from bench.history.points import Point
from bench.history.store import Entry
from reports.formats import rate

_MANY_POINTS = 40  # beyond, the few furthest do not set the scale
_FEW_PERCENT = 2.0
_LEAST_SPAN = 0.01  # of the middle: noise of less is not blown up to the whole height
_MARGIN = 0.08
_SAME_WORK = 1e-3


@dataclass(frozen=True)
class Tick:
    """A line across: its place in percent from the top, and what it stands for; tokens may not be known."""

    y: float
    tokens: str
    seconds: str


@dataclass(frozen=True)
class Scale:
    """Rates from `low` at the bottom to `high` at the top; `tokens` is a processor's of a step, 0 if not the same."""

    low: float
    high: float
    tokens: float

    def y(self, seconds: float) -> float:
        """The place of a step time in percent from the top; what lies beyond is at the edge."""
        share = ((self.tokens or 1.0) / seconds - self.low) / (self.high - self.low)
        return 100 * (1 - min(max(share, 0.0), 1.0))

    def is_beyond(self, seconds: float) -> bool:
        """Whether a step time is shown at the edge in place of where it belongs."""
        return not self.low <= (self.tokens or 1.0) / seconds <= self.high

    def rate(self, seconds: float) -> str:
        """Tokens/s/p of a step time, where one follows from the other."""
        return rate(self.tokens / seconds) if self.tokens else ""

    @property
    def ticks(self) -> list[Tick]:
        """Round figures from bottom to top."""
        found = map(float, MaxNLocator(4).tick_values(self.low, self.high))
        seconds = [(self.tokens or 1.0) / each for each in found if self.low <= each <= self.high and each > 0]
        return [Tick(self.y(each), self.rate(each), f"{each:.4g}") for each in seconds]


def scale_of(points: Sequence[Point]) -> Scale:
    """The scale that shows all points, or of many all but the few furthest."""
    tokens = tokens_of([run for point in points for run in point.runs])
    rates = (tokens or 1.0) / np.array([point.seconds for point in points])
    beyond = _FEW_PERCENT if len(points) > _MANY_POINTS else 0.0
    low, middle, high = (float(each) for each in np.percentile(rates, [beyond, 50, 100 - beyond]))
    short = max(_LEAST_SPAN * middle - (high - low), 0.0)
    margin = _MARGIN * (high - low) + short
    return Scale(max(low - margin, 0.0), high + margin, tokens)


def tokens_of(series: Sequence[Entry]) -> float:
    """Tokens of a step by processor; 0 where runs differ, as those of logs of other programs may."""
    found = [entry.step_seconds * entry.tokens_per_second_per_processor for entry in series]
    return found[-1] if math.isclose(min(found), max(found), rel_tol=_SAME_WORK) else 0.0

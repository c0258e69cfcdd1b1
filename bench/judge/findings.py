"""What kind of change a judgement found, and what the searches for such kinds share: steady steps and a rank-sum test.

Pure functions and frozen data, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.judge.recorded_run import RecordedRun
from bench.judge.stats import find_steady
from bench.records.record import Record

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["periodic", "block", "warm-up", "tail", "drift", "two levels", "slow rank", "memory"]

# The chance that the runs of one unchanged program are told to differ in one of these ways. The rank-sum test holds it
# whatever the distribution of the noise; with five runs a side it is 1.6 %, with three new runs 1.8 %.
KIND_ERROR = 0.02
FLOOR_PERCENT = 0.5  # of the mean step: what costs less is not told
_MAD_TO_SIGMA = 1.4826
_MAX_EXACT = 400  # products of the two sides' numbers of runs, above which the normal distribution will do


@dataclass(frozen=True)
class Finding:
    """One thing to say of the new runs.

    `percent` says how much it matters: what it costs, in percent of the mean step. Memory costs no time: there it is
    the growth in 100 steps, in percent of the peak.
    """

    kind: Kind
    sentence: str
    percent: float


@dataclass(frozen=True, eq=False)
class SteadySteps:
    """The steady steps of one run: their numbers, counted from 1, and the seconds of the slowest rank.

    `first` is the index in the run of the first of them, which aligns runs that started at different numbers.
    `leading` are the seconds of the steps before; empty where they are not known, as those of a baseline are not.
    """

    numbers: Ints
    seconds: Floats
    first: int
    leading: Floats

    @functools.cached_property
    def median(self) -> float:
        return middle(self.seconds)

    @functools.cached_property
    def relative(self) -> Floats:
        """Each step's time as a share of the median step, less one."""
        return np.asarray(self.seconds / self.median - 1.0)

    @functools.cached_property
    def spread(self) -> float:
        """One robust standard deviation of a step, as a share of the median step; of the faster half's."""
        return _MAD_TO_SIGMA * middle(-self.relative[self.relative <= 0.0])

    def cost_percent(self, at: Ints) -> float:
        """What these steps take more than the median, in percent of the whole time."""
        return 100 * float(self.relative[at].sum() / (self.relative + 1).sum())


def middle(values: Floats | Sequence[float]) -> float:
    """The median of at least one value; numpy's own takes several times as long on the few that a run has."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def steady_of_record(record: Record) -> SteadySteps:
    """The steady steps of a record, which holds at least one step of one rank."""
    slowest_S = np.array([rank.step_seconds for rank in record.ranks], dtype=np.float64).max(axis=0)
    first = find_steady(slowest_S.tolist()).steady_from
    numbers = np.array([step.number for step in record.steps[first:]], dtype=np.int64)
    return SteadySteps(numbers, slowest_S[first:], first, slowest_S[:first])


def steady_of_baseline(run: RecordedRun) -> SteadySteps:
    """Those of a baseline's run, which does not say its numbers: counted from 1."""
    seconds = np.array(run.steady_step_seconds, dtype=np.float64)
    return SteadySteps(run.warmup_steps + 1 + np.arange(len(seconds)), seconds, run.warmup_steps, np.zeros(0))


def digits(number: float, *, sign: bool = False) -> str:
    """Two digits, or all before the point."""
    shown = f"{number:.0f}" if abs(number) >= 99.5 else f"{number:.2g}"
    return f"+{shown}" if sign and number >= 0 else shown


def in_one_order(runs: Sequence[SteadySteps]) -> list[SteadySteps]:
    """The same order whichever way the runs were given, so that sums round alike."""
    return sorted(runs, key=lambda run: (len(run.seconds), run.seconds.tolist(), run.numbers.tolist()))


def is_larger(after: Sequence[float], before: Sequence[float]) -> bool:
    """Whether the new runs' figures are larger than the baseline's by the rank-sum test (Mann and Whitney, 1947).

    A tie counts against it. Two new runs against five can never be told to differ.
    """
    if not len(after) or not len(before):
        return False
    new, old = np.asarray(after)[:, None], np.asarray(before)[None, :]
    return rank_sum_p(int((new > old).sum()), len(after), len(before)) <= KIND_ERROR


@functools.lru_cache(maxsize=4096)
def rank_sum_p(wins: int, ours: int, theirs: int) -> float:
    """The chance of at least so many wins among the `ours` x `theirs` pairs, if both sides are alike."""
    if ours * theirs > _MAX_EXACT:
        spread = math.sqrt(ours * theirs * (ours + theirs + 1) / 12)
        return 0.5 * math.erfc((wins - 0.5 - ours * theirs / 2) / spread / math.sqrt(2))
    counts = _orders(ours, theirs)
    return float(counts[wins:].sum() / counts.sum())


@functools.lru_cache(maxsize=1024)
def _orders(ours: int, theirs: int) -> Floats:
    """How many of the orders of all runs have 0, 1, 2, ... wins: the Gaussian binomial coefficient."""
    counts = np.zeros(ours * theirs + 1)
    counts[0] = 1.0
    for part in range(1, ours + 1):
        factor = theirs + part
        counts[factor:] -= counts[:-factor].copy() if factor < len(counts) else 0.0
        for at in range(part, len(counts)):
            counts[at] += counts[at - part]
    return counts

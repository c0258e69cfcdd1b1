"""What would settle a doubt, and what that costs: more runs, or both commits side by side. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.judge.difference import Comparison, difference
from bench.judge.evidence import FAMILY_ERROR, MIN_RUNS_TO_DECIDE, visible_errors

MAX_RUNS = 40  # more than this, nobody waits for
AB_PAIRS = 5


@dataclass(frozen=True)
class Remedy:
    """How to get an answer; `runs` None: no number of them in this session would do."""

    runs: int | None
    run_seconds: float
    base: str | None  # the baseline's commit, where it is one
    case: str
    is_suspicion: bool

    @property
    def sentence(self) -> str:
        """The end of a verdict's sentence."""
        if self.is_suspicion:
            return f"the level of another session could explain it; settle by A/B: {self._ab}"
        if self.runs is None:
            return f"no number of runs in this session would settle it; compare by A/B: {self._ab}"
        more = f"about {self.runs} runs in all would settle it: --runs {self.runs} ({self._minutes(self.runs)})"
        return f"{more}, or A/B: {self._ab}"

    @property
    def _ab(self) -> str:
        return f"python -m bench ab --base {self.base or 'REV'} --case {self.case} ({self._minutes(2 * AB_PAIRS)})"

    def _minutes(self, runs: int) -> str:
        return f"{max(1, round(runs * self.run_seconds / 60)):,} min"


def remedy_of(
    comparison: Comparison, alpha: float, is_suspicion: bool, case: str, base: str | None, run_seconds: Sequence[float]
) -> Remedy:
    """Of an inconclusive metric; `run_seconds` are those of our runs, and `base` is the baseline's commit."""
    runs = None if is_suspicion else runs_needed(comparison, alpha)
    return Remedy(runs, median(run_seconds), base, case, is_suspicion)


def runs_needed(comparison: Comparison, alpha: float = FAMILY_ERROR) -> int | None:
    """The fewest runs of ours, all in one session and as noisy as these, that show a slowdown of the limit.

    None where more than `MAX_RUNS` would not.
    """
    found, theirs = difference(comparison), len(comparison.before)
    limit = comparison.limit_percent / 100
    limit = (math.log1p(limit) if comparison.whole is None else limit) - found.resolution
    sessions = 0.0
    if found.within is not None:
        sessions = max(found.error.size**2 - found.within.size**2, 0.0)
    for ours in range(max(MIN_RUNS_TO_DECIDE, len(comparison.after) + 1), MAX_RUNS + 1):
        error = math.sqrt(found.spread**2 * (1 / theirs + 1 / ours) + sessions)
        if visible_errors(alpha, theirs + ours - 2) * error <= limit:
            return ours
    return None

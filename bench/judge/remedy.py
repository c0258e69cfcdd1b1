"""What would settle a doubt, and what that costs: more runs, or both commits side by side. Pure functions."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.judge.baseline import Baseline
from bench.judge.difference import Comparison, foreseen
from bench.judge.evidence import FAMILY_ERROR, MIN_RUNS_TO_DECIDE, Judgement, visible_errors
from bench.judge.recorded_run import run_seconds
from bench.records.record import Record

MAX_RUNS = 40  # more than this, nobody waits for
AB_PAIRS = 5


@dataclass(frozen=True)
class Remedy:
    """How to get an answer; `runs` None: no number of them in this session would do.

    `run_seconds` is what one more run of this session takes, `process_seconds` what it takes in a process of its own,
    as in A/B. `left_out` runs that were made do not count, as they were disturbed. `excuse` says why a change was not
    told (bench.judge.disturbance.busier). `words` ask for such runs again.
    """

    runs: int | None
    run_seconds: float
    process_seconds: float
    base: str | None  # the baseline's commit, where it is one
    case: str
    left_out: int = 0
    is_suspicion: bool = False
    excuse: str = ""
    words: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The end of a verdict's sentence."""
        if self.excuse:
            return f"{self.excuse}; compare runs of free machines, or settle by A/B: {self._ab}"
        if self.is_suspicion:
            return f"the level of another session could explain it; settle by A/B: {self._ab}"
        if self.runs is None:
            return f"no number of runs in this session would settle it; compare by A/B: {self._ab}"
        which = " that nothing disturbs" if self.left_out else " in all"
        more = f"about {self.runs} runs{which} would settle it: --runs {self.runs}"
        return f"{more} ({told_time(self.runs * self.run_seconds)}), or A/B: {self._ab}"

    @property
    def _ab(self) -> str:
        takes = told_time(2 * AB_PAIRS * self.process_seconds)
        return f"{ab_command(self.base or 'REV', self.case, self.words)} ({takes})"


def ab_command(base: str, case: str, words: Sequence[str]) -> str:
    """A commit beside the working tree, of runs as these words ask for them."""
    return " ".join([f"python -m bench ab --base {base} --case {shlex.quote(case)}", *map(shlex.quote, words)])


def words_of(run: Record) -> tuple[str, ...]:
    """What a command line says to have such a run again, beside its case."""
    return *run.asked, "--device", run.device.kind


def told_time(seconds: float) -> str:
    """Rounded to minutes; a time that is shorter than one and a half, to tens of seconds."""
    return f"{max(10, 10 * round(seconds / 10))} s" if seconds < 90 else f"{round(seconds / 60):,} min"


def remedy_of(
    comparison: Comparison, judgement: Judgement, runs: Sequence[Record], baseline: Baseline, left_out: int = 0
) -> Remedy:
    """Of an inconclusive metric of these runs of ours, beside which so many were left out."""
    can_run_more = not judgement.is_suspicion and not judgement.excuse
    try:
        base: str | None = base_of(baseline)
    except ValueError:
        base = None
    return Remedy(
        runs=runs_needed(comparison, judgement.alpha) if can_run_more else None,
        run_seconds=median(run_seconds(run) for run in runs),
        process_seconds=process_seconds(runs),
        base=base,
        case=runs[0].case,
        left_out=left_out,
        is_suspicion=judgement.is_suspicion,
        excuse=judgement.excuse,
        words=words_of(runs[0]),
    )


def process_seconds(runs: Sequence[Record]) -> float:
    """What one run takes in a process of its own: its steps, the slowest start among these, and pytest's start.

    Runs of one session share the process that started their ranks, so that the first start is the slowest. pytest's own
    takes about as long again.
    """
    steps = median(run_seconds(run) - (run.startup_seconds or 0.0) for run in runs)
    return steps + 2 * max(run.startup_seconds or 0.0 for run in runs)


def base_of(baseline: Baseline) -> str:
    """The commit that all runs of a baseline are of, which A/B runs again.

    Raises:
        ValueError: there is not one, or the runs may be of something else.
    """
    commits = [run.commit for run in baseline.runs]
    if any(each.sha is None for each in commits):
        raise ValueError("the baseline names no commit; record it from a checkout of this project with git")
    if changed := next((each for each in commits if each.dirty is not False), None):
        raise ValueError(
            f"the baseline's runs are of {(changed.sha or '')[:10]} with changes that no commit holds; commit first, "
            "and record it again"
        )
    shas = list(dict.fromkeys(str(each.sha) for each in commits))
    if len(shas) > 1:
        names = " and ".join(each[:10] for each in shas[:2])
        raise ValueError(f"the baseline's runs are of {len(shas)} commits ({names}), and A/B runs one")
    return shas[0]


def runs_needed(comparison: Comparison, alpha: float = FAMILY_ERROR, fewest: int | None = None) -> int | None:
    """The fewest runs of ours, all in one session and as noisy as these, that show a slowdown of the limit.

    None where more than `MAX_RUNS` would not. Of these that there are already one more is asked for, or `fewest`.
    """
    limit = comparison.limit_percent / 100
    limit = math.log1p(limit) if comparison.whole is None else limit
    least = len(comparison.after) + 1 if fewest is None else fewest
    for ours in range(max(MIN_RUNS_TO_DECIDE, least), MAX_RUNS + 1):
        if _visible(comparison, ours, alpha) <= limit:
            return ours
    return None


def visible_percent(comparison: Comparison, ours: int, alpha: float = FAMILY_ERROR) -> float:
    """The smallest slowdown that so many runs of ours show, all in one session and as noisy as these."""
    found = _visible(comparison, ours, alpha)
    return 100 * (math.expm1(found) if comparison.whole is None else found)


def _visible(comparison: Comparison, ours: int, alpha: float) -> float:
    """On the tested scale."""
    error = foreseen(comparison, ours)
    return visible_errors(alpha, error.freedom) * error.size + comparison.resolution

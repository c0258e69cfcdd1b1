"""How many runs can decide against a stored baseline: known before they are made, from its own noise and the rule.

Of the new runs only the first one's key and session are used, never its speed, so that asking costs no error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.judge.baseline import Baseline
from bench.judge.difference import MIN_BASELINE_RUNS, Comparison, limits_percent
from bench.judge.evidence import FAMILY_ERROR
from bench.judge.gate import SessionPercent, is_weighed, level_of
from bench.judge.metrics import MEAN, STEP, Sessions, family
from bench.judge.recorded_run import run_seconds
from bench.judge.remedy import MAX_RUNS, runs_needed, told_time, visible_percent
from bench.judge.sessions import labels, stamp_of
from bench.judge.words import MAX_VISIBLE_PERCENT
from bench.records.record import Record

MOST_RUNS = 10  # more than these are only run if asked for


@dataclass(frozen=True)
class PlannedRuns:
    """The runs to make in all, and whether so many can rule out a slowdown of the baseline's tolerance."""

    runs: int
    can_pass: bool
    sentence: str


def planned_runs(
    first: Record, baselines: Sequence[Baseline], session_percent: SessionPercent = None, error: float = FAMILY_ERROR
) -> PlannedRuns | None:
    """For the case of this first run; None where no recorded baseline judges it.

    So many as show a slowdown of the tolerance. Where ten do not, as many as a baseline has at least: they fail what is
    much slower, and the sentence says how much that is.
    """
    weighed = [each for each in baselines if first.valid and is_weighed(each) and not each.differences(first)]
    if not weighed:
        return None
    baseline = weighed[0]
    asked = _asked(baseline, first, session_percent)
    needed = [runs_needed(each, error, fewest=1) for each in asked]
    found = [each for each in needed if each is not None]
    enough = max(found) if len(found) == len(needed) else None
    can_pass = enough is not None and enough <= MOST_RUNS
    runs = enough if enough is not None and can_pass else MIN_BASELINE_RUNS
    cost = f"{runs} runs in all, about {told_time(runs * run_seconds(first))}; --runs N overrides"
    if can_pass:
        return PlannedRuns(runs, True, f"{first.case}: {runs} runs decide against {baseline.label} ({cost})")
    visible = max(visible_percent(each, runs, error) for each in asked)
    seen = f"of {visible:.0f} % or more" if visible <= MAX_VISIBLE_PERCENT else "beyond tenfold"
    remedy = f"--runs {enough}" if enough is not None else f"no number of runs up to {MAX_RUNS}"
    return PlannedRuns(
        runs,
        False,
        f"{first.case}: {runs} runs show only a slowdown {seen}, as the runs of {baseline.label} or its sessions vary "
        f"that much; {remedy} would rule out one of {baseline.tolerance_percent:g} % ({cost})",
    )


def _asked(baseline: Baseline, first: Record, session_percent: SessionPercent) -> list[Comparison]:
    """The questions that a pass must answer, as if the new runs were as the baseline's own, in the first's session."""
    level = level_of([first], session_percent)
    own = [run.known_figures for run in baseline.runs]
    names = labels([*map(stamp_of, baseline.runs)], [stamp_of(first)])
    sessions = Sessions(before=names[:-1], after=names[-1:], spread=level.spread, origin=level.origin)
    limit = limits_percent(baseline.tolerance_percent)[0]
    found = family(own, own[:1], sessions=sessions)  # one run has no noise of its own
    return [replace(found[name], limit_percent=limit) for name in (STEP, MEAN)]

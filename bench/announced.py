"""What a benchmark run is about to do and about how long that takes, said before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.cases import Case
from bench.history import store as history
from bench.judge.remedy import told_time
from grok1.training.job import Job

_START_SECONDS = 20.0  # of the ranks: imports, groups, weights


def announced(
    cases: Sequence[Case], job_of: Callable[[Case], Job], runs_of: Callable[[Case], str], past: Path
) -> list[str]:
    """A line a case: its job, how often it runs, and the time that it takes if it is as fast as it last was here."""
    latest = _latest_step_seconds(past)
    lines = []
    for case in cases:
        job = job_of(case)
        known = latest.get(case.name)
        takes = "how long is not known before the first one"
        if known is not None:
            takes = f"about {told_time(known * job.num_steps + _START_SECONDS)} each"
        ranks = job.recipe.parallel.world_size
        what = f"{job.num_steps} steps of {job.recipe.name} on {ranks} rank{'s' * (ranks > 1)}"
        lines.append(f"{case.name}: {what}, {runs_of(case)}, {takes}; then the verdict")
    return lines


def _latest_step_seconds(past: Path) -> dict[str, float]:
    """By case; a history that cannot be read says nothing."""
    try:
        return {entry.case: entry.step_seconds for entry in history.read(past)} if past.is_file() else {}
    except ValueError:
        return {}

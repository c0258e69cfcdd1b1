"""A history in words, as people read them: a series' name, its changes, what was lost again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.history.change_points import LEAST_RUNS, ChangePoint
from bench.history.setback import setback_of
from bench.history.store import Entry, machine_of
from bench.records.terminal import plain

_SHA_LETTERS = 12


def appended(path: Path, added: int) -> str:
    """What a session says of its runs, and where to look where there is something to see."""
    if not path.exists():
        return "history: nothing was added; void runs, and those that were made slower on purpose, stay out"
    more = f"{added} more run{'s' * (added != 1)}"
    return f"history: {path} ({more}; python -m bench history check --history {shlex.quote(str(path))})"


def title(series: Sequence[Entry]) -> str:
    """The case and where it ran."""
    return f"{plain(series[0].case)} on {place(series)}"


def place(series: Sequence[Entry]) -> str:
    """Where a series ran: the device, its key, and the machine where all its runs name the same one."""
    first = series[0]
    machines = {machine_of(entry) for entry in series}
    machine = machines.pop() if len(machines) == 1 else None
    told = "" if machine is None else f", machine {machine[:8]}"
    return f"{plain(first.device_name)} ({first.key[:8]}){told}"


def summary(series: Sequence[Entry], points: Sequence[ChangePoint]) -> str:
    """How many runs, and how many changes were found in them."""
    if len(series) < 2 * LEAST_RUNS:
        count = f"{len(series)} runs are" if len(series) > 1 else "1 run is"
        return f"{count} too few to find a change; at least {2 * LEAST_RUNS} are needed"
    return f"{len(series)} runs, {len(points) or 'no'} change{'s' * (len(points) != 1)} of the step's time"


def described(series: Sequence[Entry], point: ChangePoint) -> str:
    """One change: its size, the levels on both sides, and the commits between which it lies."""
    last, first = series[point.at - 1], series[point.at]
    levels = f"{point.before_seconds:.4g} to {point.after_seconds:.4g} s a step"
    sizes = f"{levels}, {point.runs[0]} and {point.runs[1]} runs"
    return (
        f"{point.percent:+.1f} % ({sizes}; {how_sure(point)}) between {last.created_at} and {first.created_at}, "
        f"{between(series, point)}"
    )


def told_size(point: ChangePoint) -> str:
    """How much more or less time a step takes."""
    return f"{abs(point.percent):.1f} % {'slower' if point.percent > 0 else 'faster'}"


def how_sure(point: ChangePoint) -> str:
    """What a change rests on."""
    return f"{point.sureness}: {100 * point.agreement:.0f} % of the pairs of runs agree"


def between(series: Sequence[Entry], point: ChangePoint) -> str:
    """The commits between which a change lies."""
    last, first = series[point.at - 1], series[point.at]
    if _same_code(last, first):
        return f"within commit {commit_name(first)}: the code did not change, so look at the machine"
    return f"after commit {commit_name(last)}, by {commit_name(first)}"


def _same_code(last: Entry, first: Entry) -> bool:
    """What is known of it: the same sources may be of a changed tree, and a clean tree may run an edited megatron."""
    if last.commit.sha is None or last.commit.sha != first.commit.sha:
        return False
    if last.code_digests and first.code_digests:
        return last.code_digests == first.code_digests
    return not (last.commit.dirty or first.commit.dirty)


def warnings(series: Sequence[Entry], points: Sequence[ChangePoint]) -> list[str]:
    """What was gained, what of it is lost again, and since when; at most one."""
    lost = setback_of(np.array([entry.step_seconds for entry in series]), points)
    if lost is None:
        return []
    first, after = lost.best_runs
    gained = (
        "" if lost.gained_percent is None else f"gained {lost.gained_percent:.1f} % by {commit_name(series[first])}, "
    )
    again = "from the best level" if lost.gained_percent is None else "again"
    return [
        f"warning: {gained}lost {lost.lost_percent:.1f} % {again}, beginning by {commit_name(series[after])}: now "
        f"{lost.now_seconds:.4g} s a step, {lost.now_runs} runs; the best level was {lost.best_seconds:.4g} s a step, "
        f"{after - first} runs from {series[first].created_at}"
    ]


def hints(found: Sequence[Sequence[Entry]]) -> list[str]:
    """That machines which were told apart have too few runs each, and how to take them together; at most one."""
    groups: dict[tuple[str, str], list[Sequence[Entry]]] = {}
    for series in found:
        groups.setdefault((series[0].case, series[0].key), []).append(series)
    short = [
        together
        for together in groups.values()
        if len(together) > 1 and max(map(len, together)) < 2 * LEAST_RUNS <= sum(map(len, together))
    ]
    if not short:
        return []
    machines = max(map(len, short))
    return [
        f"each of {machines} machines with the same device has too few runs to find a change; where every job gets "
        "another machine, --by device takes their runs together"
    ]


def commit_name(entry: Entry) -> str:
    """Short; a plus says that the tree was changed beside it."""
    sha = entry.commit.sha
    return "unknown" if sha is None else sha[:_SHA_LETTERS] + "+" * bool(entry.commit.dirty)

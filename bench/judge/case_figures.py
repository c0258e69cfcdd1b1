"""A case's figures, by one definition: the verdict, the reports, JUnit and the terminal all quote these.

A figure of a case is the median, over the runs that count, of that figure of each run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from bench.judge.disturbance import readings, seen_of, undisturbed, with_own_load
from bench.judge.evidence import MIN_RUNS_TO_DECIDE
from bench.judge.stats import Summary
from bench.records.origin import origins
from bench.records.record import Record

T = TypeVar("T")


def counting(runs: Sequence[Record]) -> list[int]:
    """The places of the runs that count: the valid ones, if any; of these the undisturbed, if they can decide."""
    places = [place for place, run in enumerate(runs) if run.valid] or list(range(len(runs)))
    taken = [readings(each) for each in with_own_load([seen_of(runs[place]) for place in places])]
    return [places[kept] for kept in undisturbed(taken, MIN_RUNS_TO_DECIDE)]


def told_runs(runs: Sequence[Record]) -> str:
    """How many they are, and of how many programs or machines, where of several: their median is of none of these."""
    apart = origins(runs)
    return f"{len(runs)} runs" + (f" of {apart} programs or machines" if apart > 1 else "")


def over_runs(runs: Iterable[T], figure: Callable[[T], float | None]) -> float | None:
    """The median of a figure over runs; None unless every run has it."""
    found = [figure(run) for run in runs]
    values = [value for value in found if value is not None]
    return statistics.median(values) if values and len(values) == len(found) else None


def named(runs: Iterable[Mapping[str, float]], name: str) -> float:
    """The same of runs whose figures are given by name."""
    return statistics.median(run[name] for run in runs)


def step_seconds(summaries: Iterable[Summary]) -> float:
    """Of at least one run: the median over runs of each one's median steady step."""
    return statistics.median(each.median_step_seconds for each in summaries)


def tokens_rate(summaries: Iterable[Summary]) -> float:
    """Tokens per second per processor, of at least one run: the median over runs of each one's, by its mean step."""
    return statistics.median(each.tokens_per_second_per_processor for each in summaries)

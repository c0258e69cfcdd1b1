"""What kind of change the new runs show against a baseline's, in words: what the median of a run cannot see.

Eight kinds. The tests find each where it was put in, and none where nothing was:

- periodic: every so many steps one is slow;
- block: neighbouring steps are slow, at the same place in each run;
- warm-up: slow steps at the start of the new runs count as warm-up, and the baseline has fewer of them;
- tail: a few steps here and there are slower than the baseline's slow steps;
- drift: each run slows down;
- two levels: runs fall into two groups, as the baseline's may;
- slow rank: one rank, or one node, is slower than its peers in every step;
- memory: it grows in every step.

A block, a warm-up, a tail and a drift are told against a baseline, from three runs on each side. The others are told
without one too. A finding explains a verdict, and makes none. Pure functions, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.judge.findings import Finding, Ints, SteadySteps, in_one_order, steady_of_baseline, steady_of_record
from bench.judge.levels import find_levels
from bench.judge.periods import find_periodic
from bench.judge.rank_patterns import find_memory_slope, find_slow_rank
from bench.judge.recorded_run import RecordedRun
from bench.judge.stretches import find_drift, find_stretch, find_tail, find_warmup, without
from bench.records.record import Record

MAX_SENTENCES = 2


def findings(before: Sequence[RecordedRun], after: Sequence[Record], *, with_ranks: bool = True) -> tuple[Finding, ...]:
    """What the new runs, which hold steps, show against the baseline's (none: by themselves); the costliest first.

    `with_ranks`: compare ranks with each other too, which takes most of the time.
    """
    ordered = sorted(after, key=lambda record: record.id)
    steady = [steady_of_record(record) for record in ordered]
    starts = [run.first for run in steady]
    slow_rank = find_slow_rank(ordered, starts) if ordered and with_ranks else None
    of_ranks = (slow_rank, find_memory_slope(ordered, starts)) if ordered else ()
    told = [*findings_of_steps([steady_of_baseline(run) for run in before], steady)]
    return _ordered([*told, *(each for each in of_ranks if each is not None)])


def findings_of_steps(before: Sequence[SteadySteps], after: Sequence[SteadySteps]) -> tuple[Finding, ...]:
    """What the steps' times alone show."""
    if not after:
        return ()
    old, new = in_one_order(before), in_one_order(after)
    found: list[Finding | None] = [*find_levels(old, new), find_warmup(old, new)]
    if (periodic := find_periodic(old, new)) is not None:
        found.append(periodic.finding)
        old, new = without(old, periodic.slow_before), without(new, periodic.slow_after)
    drift = find_drift(old, new)
    stretch = find_stretch(old, new)
    if stretch is not None and (drift is None or not _is_slope(new, stretch[2])):
        found.append(stretch[0])
        old, new = without(old, stretch[1]), without(new, stretch[2])
        drift = find_drift(old, new)
    found += [drift, find_tail(old, new)]
    return _ordered([each for each in found if each is not None])


def sentences(before: Sequence[RecordedRun], after: Sequence[Record]) -> str:
    """The costliest findings in one line, to end a verdict's sentence with; empty where there is nothing to say."""
    return in_words(findings(before, after))


def in_words(found: Sequence[Finding]) -> str:
    """The first of these findings in one line."""
    return "; ".join(each.sentence for each in found[:MAX_SENTENCES])


def _ordered(found: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda each: (-each.percent, each.kind, each.sentence)))


def _is_slope(runs: Sequence[SteadySteps], slow: Sequence[Ints]) -> bool:
    """Whether a line through the steps of each run leaves less than two levels, of the slow ones and of the others."""
    left_by_line = left_by_levels = 0.0
    for run, at in zip(runs, slow, strict=True):
        inside = np.zeros(len(run.relative), dtype=bool)
        inside[at] = True
        of_lines = np.vander(np.arange(len(run.relative)), 2)
        line = of_lines @ np.linalg.lstsq(of_lines, run.relative, rcond=None)[0]
        left_by_line += float(np.square(run.relative - line).sum())
        for part in (run.relative[inside], run.relative[~inside]):
            left_by_levels += float(np.square(part - part.mean()).sum()) if len(part) else 0.0
    return left_by_line < left_by_levels

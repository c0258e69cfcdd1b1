"""What is judged of a run: one number a metric, its scale, and its share of the error that a judgement may make.

A run's figures are a flat dict by name, so that a baseline can store them as text and a later metric needs no new
schema. Smaller is better in all of them. Speed is one question asked in four ways: the median step, the mean step
(lost throughput is lost, so tokens/s/p is the same test), the lower quartile (a step that nothing disturbed, which
bursts of other work leave alone), and the mean less the median (what only some steps lose).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.judge.clock import mean_tick_seconds, tick_seconds
from bench.judge.difference import Comparison
from bench.judge.stats import Summary

# "ratio": the change is relative to the figure itself. "of a step": seconds, as a share of the baseline's step, so
# that a phase which doubles from one thousandth of a step to two is no alarm.
Scale = Literal["ratio", "of a step"]

STEP = "step_seconds"
MEAN = "mean_step_seconds"
QUARTILE = "lower_quartile_step_seconds"
SPEED = (STEP, MEAN, QUARTILE)
# Of each run, the mean step less the median one: what some of its steps lose. Whatever makes the whole run faster or
# slower cancels, so that pauses are seen which are less than the runs vary.
LOST = "lost_step_seconds"
RATE = "tokens_per_second_per_processor"  # the same test as the mean step, so it is no metric of its own
TICK, MEAN_TICK = "clock_tick_seconds", "mean_clock_tick_seconds"  # where the step times show one
PHASE = "phase_seconds."
COLLECTIVE = "collective_seconds."
MODULE = "module_seconds."
# Speed decides first: it gets nine tenths of the error, all other metrics share the tenth.
SPEED_WEIGHT = 0.9
_LOST_SHARE = 0.05  # of speed's weight: what it sees is clear, and the others need theirs
# A session has its own level of time. What a job needs of memory it needs in every session.
_SAME_IN_EVERY_SESSION = ("peak_bytes",)


@dataclass(frozen=True)
class Metric:
    """A judged figure: how people call it, and what a change of it is measured in."""

    name: str
    title: str
    scale: Scale


_METRICS = {
    STEP: Metric(STEP, "s/step", "ratio"),
    MEAN: Metric(MEAN, "mean s/step", "ratio"),  # sees what only some steps pay
    QUARTILE: Metric(QUARTILE, "lower quartile of s/step", "ratio"),
    LOST: Metric(LOST, "time beyond the median step", "of a step"),
    "peak_bytes": Metric("peak_bytes", "peak memory", "ratio"),
    "skew_seconds": Metric("skew_seconds", "skew between ranks", "of a step"),
}


def metric_of(name: str) -> Metric | None:
    """The metric of a figure; None for one that is kept to explain, not to judge."""
    if name.startswith(PHASE):
        return Metric(name, name.removeprefix(PHASE), "of a step")
    return _METRICS.get(name)


def figures_of(summary: Summary) -> dict[str, float]:
    """Every figure of a run by name: those that are judged, and those that say where a change comes from."""
    found = speed_figures(summary.step_seconds[summary.steady_from :]) | {"skew_seconds": summary.skew_seconds}
    if summary.peak.max_bytes:  # of an ingested log it may not be known
        found["peak_bytes"] = float(summary.peak.max_bytes)
    found |= {PHASE + name: seconds for name, seconds in summary.phase_seconds.items()}
    found |= {COLLECTIVE + name: seconds for name, seconds in summary.collective_seconds.items()}
    found |= {MODULE + name: seconds for name, seconds in summary.module_seconds.items()}
    steps = len(summary.step_seconds)
    found |= {f"collective_calls.{name}": count / steps for name, count in summary.collective_calls.items()}
    found |= {f"collective_bytes.{name}": count / steps for name, count in summary.collective_bytes.items()}
    return found


def stored_figures_of(summary: Summary) -> dict[str, float]:
    """Those that files keep, none of which is negative: what steps lose follows from the mean and the median."""
    return {name: value for name, value in figures_of(summary).items() if name != LOST}


def speed_figures(steady_seconds: Sequence[float]) -> dict[str, float]:
    """The figures of speed of a run's steady steps, and the clock's tick where they show one."""
    ordered = sorted(steady_seconds)
    mean = math.fsum(ordered) / len(ordered)
    median = _quantile(ordered, 0.5)
    found = {STEP: median, MEAN: mean, QUARTILE: _quantile(ordered, 0.25), LOST: mean - median}
    tick = tick_seconds(steady_seconds)
    ticks = {TICK: tick, MEAN_TICK: mean_tick_seconds(steady_seconds, tick)}
    return found | {name: value for name, value in ticks.items() if value}


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy's, which is slow for a few numbers."""
    whole = share * (len(ordered) - 1)
    place = int(whole)
    below, above = ordered[place], ordered[min(place + 1, len(ordered) - 1)]
    return float(below + (above - below) * (whole - place))


@dataclass(frozen=True)
class Sessions:
    """The session of each run of two sides, the assumed level between sessions (0.01 is 1 %), and who says so."""

    before: Sequence[str]
    after: Sequence[str]
    spread: float
    origin: str = "assumed"


def family(
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    *,
    is_paired: bool = False,
    sessions: Sessions | None = None,
) -> dict[str, Comparison]:
    """The comparisons of two sides' runs, for each metric that every run of both sides has."""
    names = [name for name in before[0] if metric_of(name) and all(name in run for run in (*before, *after))]
    step = float(np.median([run[STEP] for run in before]))
    weights = _weights(names)
    return {
        name: Comparison(
            before=[run[name] for run in before],
            after=[run[name] for run in after],
            whole=None if metric.scale == "ratio" else step,
            weight=weights[name],
            is_paired=is_paired,
            sessions=None if sessions is None else (sessions.before, sessions.after),
            session_spread=0.0 if sessions is None or name in _SAME_IN_EVERY_SESSION else sessions.spread,
            session_origin="assumed" if sessions is None else sessions.origin,
            resolution=_resolution(name, step, (*before, *after)),
            group="speed" if name in SPEED or name == LOST else None,
            whole_change_percent=_mean_change_percent(before, after) if name == LOST else None,
        )
        for name in names
        if (metric := metric_of(name)) is not None
    }


def _weights(names: Sequence[str]) -> dict[str, float]:
    """Of the family's error: speed's among its figures, the rest among the others."""
    lost = SPEED_WEIGHT * _LOST_SHARE if LOST in names else 0.0
    speed = sum(name in SPEED for name in names)
    others = max(1, len(names) - speed - (LOST in names))
    return {
        name: lost if name == LOST else (SPEED_WEIGHT - lost) / speed if name in SPEED else (1 - SPEED_WEIGHT) / others
        for name in names
    }


def _mean_change_percent(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> float:
    """Of the mean step: the runs' geometric mean, as it is tested."""
    theirs, ours = (math.fsum(math.log(run[MEAN]) for run in side) / len(side) for side in (before, after))
    return 100 * math.expm1(ours - theirs)


def _resolution(name: str, step: float, runs: Sequence[Mapping[str, float]]) -> float:
    """What the clock's tick is of a step, as a logarithm: the two sides may be so far apart and show the same."""
    if name == LOST:
        return sum(max(run.get(each, 0.0) for run in runs) for each in (TICK, MEAN_TICK)) / step
    if name not in SPEED:
        return 0.0
    tick = max(run.get(MEAN_TICK if name == MEAN else TICK, 0.0) for run in runs)
    return math.log1p(tick / step)

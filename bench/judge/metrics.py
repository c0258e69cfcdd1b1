"""What is judged of a run: one number a metric, its scale, and its share of the error that a judgement may make.

A run's figures are a flat dict by name, so that a baseline can store them as text and a later metric needs no new
schema. Smaller is better in all of them; tokens/s/p is the same test as the time of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.judge.evidence import Comparison
from bench.judge.stats import Summary

# "ratio": the change is relative to the figure itself. "of a step": seconds, as a share of the baseline's step, so
# that a phase which doubles from one thousandth of a step to two is no alarm.
Scale = Literal["ratio", "of a step"]

STEP = "step_seconds"
RATE = "tokens_per_second_per_processor"  # the same test as the time of a step, so it is no metric of its own
PHASE = "phase_seconds."
COLLECTIVE = "collective_seconds."
MODULE = "module_seconds."
# The time of a step decides first: it gets nine tenths of the error, all other metrics share the tenth.
STEP_WEIGHT = 0.9


@dataclass(frozen=True)
class Metric:
    """A judged figure: how people call it, and what a change of it is measured in."""

    name: str
    title: str
    scale: Scale


_METRICS = {
    STEP: Metric(STEP, "s/step", "ratio"),
    "mean_step_seconds": Metric("mean_step_seconds", "mean s/step", "ratio"),  # sees what only some steps pay
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
    found = {
        STEP: summary.median_step_seconds,
        "mean_step_seconds": summary.mean_step_seconds,
        "skew_seconds": summary.skew_seconds,
    }
    if summary.peak.max_bytes:  # of an ingested log it may not be known
        found["peak_bytes"] = float(summary.peak.max_bytes)
    found |= {PHASE + name: seconds for name, seconds in summary.phase_seconds.items()}
    found |= {COLLECTIVE + name: seconds for name, seconds in summary.collective_seconds.items()}
    found |= {MODULE + name: seconds for name, seconds in summary.module_seconds.items()}
    steps = len(summary.step_seconds)
    found |= {f"collective_calls.{name}": count / steps for name, count in summary.collective_calls.items()}
    found |= {f"collective_bytes.{name}": count / steps for name, count in summary.collective_bytes.items()}
    return found


def family(
    before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]], *, is_paired: bool = False
) -> dict[str, Comparison]:
    """The comparisons of two sides' runs, for each metric that every run of both sides has."""
    names = [name for name in before[0] if metric_of(name) and all(name in run for run in (*before, *after))]
    step = float(np.median([run[STEP] for run in before]))
    others = max(1, len(names) - 1)
    return {
        name: Comparison(
            before=[run[name] for run in before],
            after=[run[name] for run in after],
            whole=None if metric.scale == "ratio" else step,
            weight=STEP_WEIGHT if name == STEP else (1 - STEP_WEIGHT) / others,
            is_paired=is_paired,
        )
        for name in names
        if (metric := metric_of(name)) is not None
    }

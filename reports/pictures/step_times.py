"""The time of each step of a run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.formats import Unit, seconds_unit
from reports.palette import INK, MEASURED, OTHER
from reports.picture import WIDE, picture


def step_times(record: Record, summary: Summary, width: float = WIDE) -> bytes:
    """Step time of the slowest rank, the spread over ranks, the warm-up cut and the steady median."""
    steps, unit = [step.number for step in record.steps], seconds_unit([summary.median_step_seconds])
    seconds_RS = np.array([rank.step_seconds for rank in record.ranks]) / unit.size

    def draw(axes: Axes) -> None:
        axes.fill_between(
            steps,
            seconds_RS.min(axis=0),
            seconds_RS.max(axis=0),
            color=MEASURED,
            alpha=0.25,
            lw=0,
            label="fastest to slowest rank",
        )
        axes.plot(steps, seconds_RS.max(axis=0), color=MEASURED, marker="o", ms=3.5, lw=1.4, label="slowest rank")
        median = summary.median_step_seconds
        axes.axhline(
            median / unit.size, color=INK, ls="--", lw=1.2, label=f"this run's steady median {unit.told(median)}"
        )
        if summary.steady_from:
            edge = (steps[summary.steady_from - 1] + steps[summary.steady_from]) / 2
            axes.axvspan(
                steps[0] - 0.5,
                edge,
                color=OTHER,
                alpha=0.25,
                lw=0,
                label=f"warm-up, {summary.steady_from} step{'s' * (summary.steady_from > 1)}",
            )
        axes.set(xlabel="step", ylabel=unit.long, title="Time of each step", xlim=(steps[0] - 0.5, steps[-1] + 0.5))
        _focus_on_steady(axes, summary, unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return picture(draw, height=3.8, width=width)


def _focus_on_steady(axes: Axes, summary: Summary, unit: Unit) -> None:
    """A first step may be a hundred times a steady one: keep those readable and say what is cut off."""
    steady = summary.step_seconds[summary.steady_from :]
    margin = max(0.6 * (max(steady) - min(steady)), 0.04 * summary.median_step_seconds)
    top = max(steady) + margin
    axes.set_ylim(max(0.0, min(steady) - margin) / unit.size, top / unit.size)
    hidden = [seconds for seconds in summary.step_seconds if seconds > top]
    if hidden:
        note = f"{len(hidden)} above the plot, up to {seconds_unit([max(hidden)]).told(max(hidden))}"
        axes.annotate(note, (0.99, 0.97), xycoords="axes fraction", fontsize=8, ha="right", va="top")

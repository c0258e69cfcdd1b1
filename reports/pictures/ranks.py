"""Each rank of a run: its step, its collectives, its memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.picture import BLUE, ORANGE, png

_MAX_BARS = 128
_MAX_STAGES = 8  # that get a colour of their own


def ranks(record: Record, summary: Summary) -> bytes:
    """Each rank's median step with its part in collectives, and its peak memory by pipeline stage."""
    ordered = sorted(record.ranks, key=lambda rank: rank.rank)
    numbers = [rank.rank for rank in ordered]
    steady = slice(summary.steady_from, None)
    whole = [float(np.median(rank.step_seconds[steady])) for rank in ordered]
    inside = [float(np.median(rank.communication_seconds[steady] or [0.0])) for rank in ordered]

    limits = (numbers[0] - 0.6, numbers[-1] + 0.6)

    def times(axes: Axes) -> None:
        _bars(axes, numbers, whole, BLUE, "step")
        if any(inside):
            _bars(axes, numbers, inside, ORANGE, "inside collectives, waiting included")
        axes.set(ylabel="seconds", title=f"Median steady step of each rank, {_apart(numbers, whole)}", xlim=limits)

    def memory(axes: Axes) -> None:
        stages = sorted({rank.stage for rank in ordered})
        for place, stage in enumerate(stages if len(stages) <= _MAX_STAGES else [None]):
            chosen = [rank for rank in ordered if stage in (rank.stage, None)]
            peaks = [rank.peak_bytes / 2**30 for rank in chosen]
            label = "memory, all stages" if stage is None else f"memory, stage {stage}"
            _bars(axes, [rank.rank for rank in chosen], peaks, _STAGES[place], label)
        peaks = [rank.peak_bytes / 2**30 for rank in ordered]
        axes.set(xlabel="rank", ylabel="GiB", title=f"Peak memory of each rank, {_apart(numbers, peaks)}", xlim=limits)

    return png(*[times, memory][: 1 + any(rank.peak_bytes for rank in ordered)], height=4.8)


_STAGES = ("#1f5fa8", "#6aa3dc", "#2f7f5f", "#86c5a4", "#6b4fa0", "#b39ddb", "#8c564b", "#c9a79c")


def _apart(numbers: Sequence[int], values: Sequence[float]) -> str:
    """How far the highest is above the median, which tells a straggler."""
    middle, most = float(np.median(values)), max(values)
    above = 100 * (most / middle - 1) if middle else 0.0
    return f"most on rank {numbers[values.index(most)]}: {above:.1f} % above the median"


def _bars(axes: Axes, numbers: Sequence[int], values: Sequence[float], colour: str, label: str) -> None:
    """Bars, or for too many of them an outline."""
    if len(numbers) <= _MAX_BARS:
        # One outline with gaps: a rectangle each costs more than all else in the panel.
        edges = [number + side for number in numbers for side in (-0.375, 0.375)]
        heights = [height for value in values for height in (value, np.nan)][:-1]
        axes.stairs(heights, edges, fill=True, color=colour, label=label)
    else:
        axes.vlines(numbers, 0, values, color=colour, label=label, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axes.set_ylim(bottom=0)

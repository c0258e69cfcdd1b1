"""Each rank of a run: its step, its collectives, its memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.judge.stats import Summary
from bench.records.record import RankSamples, Record
from reports.formats import Unit, bytes_unit, seconds_unit
from reports.palette import COMMUNICATION, INK, MEASURED, MUTED
from reports.picture import WIDE, picture

_MAX_BARS = 128
_MAX_STAGES = 16  # that are named
_MAX_LABELS = 20  # of ranks, in a wide picture


def ranks(record: Record, summary: Summary, width: float = WIDE) -> bytes:
    """Each rank's median step with its part in collectives, and its peak memory, with the pipeline's stages named."""
    ordered = sorted(record.ranks, key=lambda rank: rank.rank)
    numbers = [rank.rank for rank in ordered]
    steady = slice(summary.steady_from, None)
    whole = [float(np.median(rank.step_seconds[steady])) for rank in ordered]
    inside = [float(np.median(rank.communication_seconds[steady] or [0.0])) for rank in ordered]
    peaks = [float(rank.peak_bytes) for rank in ordered]
    limits = (numbers[0] - 0.6, numbers[-1] + 0.6)
    labels = int(_MAX_LABELS * width / WIDE)
    seconds, memory = seconds_unit(whole), bytes_unit(peaks)

    def times(axes: Axes) -> None:
        _bars(axes, numbers, whole, seconds, MEASURED, "step, or peak memory")
        if any(inside):
            _bars(axes, numbers, inside, seconds, COMMUNICATION, "inside collectives, waiting included", hatch="////")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=labels))
        title = f"Median steady step of each rank, {_apart(numbers, whole)}"
        axes.set(ylabel=seconds.long, title=title, xlim=limits)

    def memories(axes: Axes) -> None:
        _bars(axes, numbers, peaks, memory, MEASURED, "step, or peak memory")
        _name_stages(axes, ordered, width)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=labels))
        title = f"Peak memory of each rank, {_apart(numbers, peaks)}"
        axes.set(xlabel="rank", ylabel=memory.name, title=title, xlim=limits)

    return picture(*[times, memories][: 1 + any(peaks)], height=4.8, width=width)


def _name_stages(axes: Axes, ordered: Sequence[RankSamples], width: float) -> None:
    """A line between pipeline stages and their names, where they are few and each is of neighbours."""
    stages = [(stage, [rank.rank for rank in group]) for stage, group in groupby(ordered, lambda rank: rank.stage)]
    if not 1 < len(stages) <= _MAX_STAGES or len({stage for stage, _ in stages}) < len(stages):
        return
    axes.set_ylim(top=1.18 * axes.get_ylim()[1])
    for stage, members in stages:
        if members[0] != ordered[0].rank:
            axes.axvline(members[0] - 0.5, color=MUTED, lw=0.8, ls=":")
        middle = (members[0] + members[-1]) / 2
        words = f"stage {stage}" if len(stages) <= _MAX_STAGES / 2 * width / WIDE else str(stage)
        axes.text(
            middle, 0.99, words, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8, color=INK
        )


def _apart(numbers: Sequence[int], values: Sequence[float]) -> str:
    """How far the highest is above the median, which tells a straggler."""
    middle, most = float(np.median(values)), max(values)
    above = 100 * (most / middle - 1) if middle else 0.0
    return f"most on rank {numbers[values.index(most)]}: {above:.1f} % above the median"


def _bars(
    axes: Axes, numbers: Sequence[int], values: Sequence[float], unit: Unit, colour: str, label: str, hatch: str = ""
) -> None:
    """Bars, or for too many of them an outline."""
    shown = [value / unit.size for value in values]
    if len(numbers) <= _MAX_BARS:
        # One outline with gaps: a rectangle each costs more than all else in the panel.
        edges = [number + side for number in numbers for side in (-0.375, 0.375)]
        heights = [height for value in shown for height in (value, np.nan)][:-1]
        axes.stairs(heights, edges, fill=True, facecolor=colour, edgecolor="white", lw=0, hatch=hatch, label=label)
    else:
        axes.vlines(numbers, 0, shown, color=colour, label=label, lw=1)
    axes.set_ylim(bottom=0)

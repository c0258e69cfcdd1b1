"""The plots of a report, as PNG bytes. Uses matplotlib's objects only: no pyplot, no state, no display."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.picture import BLUE, GREY, ORANGE, PALETTE, PHASE_COLOURS, plain, png

_MAX_EXPERT_LABELS = 16
_MAX_CURVES = 60
_MAX_BARS = 128
_MAX_STAGES = 8  # that get a colour of their own
Floats = npt.NDArray[np.float64]


def step_times(record: Record, summary: Summary) -> bytes:
    """Step time of the slowest rank, the spread over ranks, the warm-up cut and the steady median."""
    steps = [step.step for step in record.steps]
    seconds_RS = np.array([rank.step_seconds for rank in record.ranks])

    def draw(axes: Axes) -> None:
        axes.fill_between(
            steps,
            seconds_RS.min(axis=0),
            seconds_RS.max(axis=0),
            color=BLUE,
            alpha=0.25,
            lw=0,
            label="fastest to slowest rank",
        )
        axes.plot(steps, summary.step_seconds, color=BLUE, marker="o", ms=3.5, lw=1.4, label="slowest rank")
        median = summary.median_step_seconds
        axes.axhline(median, color=ORANGE, ls="--", lw=1.2, label=f"steady median {median:.4g} s")
        if summary.steady_from:
            edge = (steps[summary.steady_from - 1] + steps[summary.steady_from]) / 2
            axes.axvspan(
                steps[0] - 0.5,
                edge,
                color=GREY,
                alpha=0.25,
                lw=0,
                label=f"warm-up, {summary.steady_from} step{'s' * (summary.steady_from > 1)}",
            )
        axes.set(xlabel="step", ylabel="seconds", title="Time of each step", xlim=(steps[0] - 0.5, steps[-1] + 0.5))
        _focus_on_steady(axes, summary)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return png(draw, height=3.8)


def _focus_on_steady(axes: Axes, summary: Summary) -> None:
    """A first step may be a hundred times a steady one: keep those readable and say what is cut off."""
    steady = summary.step_seconds[summary.steady_from :]
    margin = max(0.6 * (max(steady) - min(steady)), 0.04 * summary.median_step_seconds)
    top = max(steady) + margin
    axes.set_ylim(max(0.0, min(steady) - margin), top)
    hidden = [seconds for seconds in summary.step_seconds if seconds > top]
    if hidden:
        note = f"{len(hidden)} above the plot, up to {max(hidden):.3g} s"
        axes.annotate(note, (0.99, 0.97), xycoords="axes fraction", fontsize=8, ha="right", va="top")


def distribution(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> bytes:
    """The steady steps of each run as a thin line, ours over the baseline's, with the median of each side's runs."""
    sides = [(name, runs, colour) for name, runs, colour in _sides(ours, theirs) if runs]

    def draw(axes: Axes) -> None:
        for name, runs, colour in sides:
            picked = runs[:: -(-len(runs) // _MAX_CURVES)]
            for run in picked:
                axes.ecdf(run, color=colour, lw=0.9, alpha=max(0.25, 0.8 - 0.02 * len(picked)))
            medians = [float(np.median(run)) for run in runs]
            middle = float(np.median(medians))
            axes.plot(medians, [0.5] * len(medians), color=colour, marker="|", ms=9, mew=1.5, ls="none")
            label = f"{name}: median {middle:.4g} s, {len(runs)} run{'s' * (len(runs) > 1)}"
            axes.axvline(middle, color=colour, ls="--", lw=1.6, label=label)
        low, high, note = _usual(np.concatenate([run for _, runs, _ in sides for run in runs]))
        if note:
            axes.annotate(note, (0.99, 0.06), xycoords="axes fraction", fontsize=8, ha="right")
        axes.set(xlabel="seconds", ylabel="share of steady steps", title="Steady steps: how many took at most so long")
        axes.set(xlim=(low, high), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return png(draw, height=3.6)


def _sides(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> list[tuple[str, Sequence[Sequence[float]], str]]:
    return [("baseline", theirs, "#6d7680"), ("measured", ours, ORANGE)]


def _usual(seconds: Floats) -> tuple[float, float, str]:
    """Limits that a few late steps do not stretch, and what lies beyond."""
    low, middle, late = np.percentile(seconds, [0, 50, 95])
    reach = low + 1.3 * max(late - low, 0.01 * middle)
    beyond = seconds[seconds > reach]
    high = min(float(seconds.max()), reach) if len(beyond) else float(seconds.max())
    margin = 0.03 * max(high - low, 0.01 * middle)
    note = f"{len(beyond)} beyond the plot, up to {beyond.max():.3g} s" if len(beyond) else ""
    return float(low) - margin, high + margin, note


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
        axes.bar(numbers, values, color=colour, label=label, width=0.75)
    else:
        axes.vlines(numbers, 0, values, color=colour, label=label, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axes.set_ylim(bottom=0)


def phases(summary: Summary) -> bytes:
    """One stacked bar: where the median steady step went, with what no phase covers in grey."""
    free = [colour for colour in PALETTE if colour not in PHASE_COLOURS.values()]

    def draw(axes: Axes) -> None:
        left = 0.0
        for index, (name, value) in enumerate(summary.phase_seconds.items()):
            colour = PHASE_COLOURS.get(name, free[index % len(free)])
            axes.barh(0, value, left=left, color=colour, label=f"{plain(name)} {value:.3g} s")
            left += value
        rest = summary.median_step_seconds - left
        if rest > 0:
            axes.barh(0, rest, left=left, color="#dddddd", label=f"outside these {rest:.3g} s")
        axes.set(yticks=[], xlabel="seconds", title="Where a step's time goes (mean over ranks)")
        axes.margins(x=0, y=0.1)

    return png(draw, height=2.4)


def expert_load(record: Record) -> bytes:
    """A heat map: each expert's share of its layer's tokens, in percent of an even share."""
    load_LE = np.array(record.expert_load, dtype=np.float64)
    mean_L1 = load_LE.mean(axis=1, keepdims=True)
    relative_LE = 100 * np.divide(load_LE, mean_L1, out=np.zeros_like(load_LE), where=mean_L1 > 0)
    layers, experts = relative_LE.shape

    def draw(axes: Axes) -> None:
        # White is an even share; the ends are fixed unless the load is worse, so that two reports compare by
        # eye.
        spread = max(50.0, float(np.abs(relative_LE - 100).max()))
        image = axes.imshow(relative_LE, aspect="auto", cmap="RdBu_r", vmin=100 - spread, vmax=100 + spread)
        axes.set(xlabel="expert", ylabel="layer", title="Expert load, percent of an even share")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        if experts <= _MAX_EXPERT_LABELS and layers <= _MAX_EXPERT_LABELS:
            _write_cells(axes, relative_LE, spread)
        axes.figure.colorbar(image, ax=axes, pad=0.02)

    return png(draw, height=min(8.0, 1.6 + 0.34 * layers))


def _write_cells(axes: Axes, relative_LE: np.ndarray, spread: float) -> None:
    for (layer, expert), value in np.ndenumerate(relative_LE):
        colour = "white" if abs(value - 100) > 0.6 * spread else "black"
        cell = axes.text(expert, layer, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        cell.set_in_layout(False)  # it lies inside; measuring every one takes half of the picture's time

"""The plots of a report, as PNG bytes. Uses matplotlib's objects only: no pyplot, no state, no display."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.record import Record
from bench.selftest import Outcome
from bench.stats import Summary

_DPI = 110
_WIDTH_INCHES = 8.0
_BLUE, GREY, _ORANGE = "#1f5fa8", "#9aa3ad", "#c8641b"
# matplotlib's ten colours without its grey, which is for what has no name
PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
_LEGEND_LETTERS = 120  # that fit beside each other
_MAX_EXPERT_LABELS = 16


def step_times(record: Record, summary: Summary) -> bytes:
    """Step time of the slowest rank, the spread over ranks, the warm-up cut and the steady median."""
    steps = [step.step for step in record.steps]
    seconds_RS = np.array([rank.step_seconds for rank in record.ranks])

    def draw(axes: Axes) -> None:
        axes.fill_between(
            steps,
            seconds_RS.min(axis=0),
            seconds_RS.max(axis=0),
            color=_BLUE,
            alpha=0.25,
            lw=0,
            label="fastest to slowest rank",
        )
        axes.plot(steps, summary.step_seconds, color=_BLUE, marker="o", ms=3.5, lw=1.4, label="slowest rank")
        median = summary.median_step_seconds
        axes.axhline(median, color=_ORANGE, ls="--", lw=1.2, label=f"steady median {median:.4g} s")
        if summary.steady_from:
            edge = (steps[summary.steady_from - 1] + steps[summary.steady_from]) / 2
            axes.axvspan(
                steps[0] - 0.5,
                edge,
                color=GREY,
                alpha=0.25,
                lw=0,
                label=f"warm-up, {summary.steady_from} steps",
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


def phases(summary: Summary) -> bytes:
    """One stacked bar: where the median steady step went, with what no phase covers in grey."""
    names, seconds = list(summary.phase_seconds), list(summary.phase_seconds.values())
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]

    def draw(axes: Axes) -> None:
        left = 0.0
        for index, (name, value) in enumerate(zip(names, seconds, strict=True)):
            axes.barh(
                0,
                value,
                left=left,
                color=colours[index % len(colours)],
                label=f"{plain(name)} {value:.3g} s",
            )
            left += value
        rest = summary.median_step_seconds - left
        if rest > 0:
            axes.barh(0, rest, left=left, color="#dddddd", label=f"outside these {rest:.3g} s")
        axes.set(yticks=[], xlabel="seconds", title="Where a step's time goes (mean over ranks)")
        axes.margins(x=0, y=0.1)

    return png(draw, height=2.6)


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


def power_curves(outcomes: Sequence[Outcome]) -> bytes:
    """How often each rule fails a slowdown of every step, by its size, a panel for each condition."""
    conditions = list(dict.fromkeys(each.condition for each in outcomes))

    def draw(condition: str, axes: Axes) -> None:
        for colour, rule in zip(PALETTE, dict.fromkeys(each.rule for each in outcomes), strict=False):
            of_rule = [
                each for each in outcomes if (each.condition, each.rule, each.kind) == (condition, rule, "every step")
            ]
            percents, shares = [each.percent for each in of_rule], [each.failed for each in of_rule]
            axes.plot(
                percents, [100 * each.value for each in shares], color=colour, marker="o", ms=3.5, label=plain(rule)
            )
            low, high = ([100 * each.interval[end] for each in shares] for end in (0, 1))
            axes.fill_between(percents, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(title=plain(condition), xlabel="slowdown put in, %", ylabel="runs failed, %", ylim=(-2, 102))

    return png(*(functools.partial(draw, each) for each in conditions), height=0.8 + 2.6 * len(conditions))


def _write_cells(axes: Axes, relative_LE: np.ndarray, spread: float) -> None:
    for (layer, expert), value in np.ndenumerate(relative_LE):
        colour = "white" if abs(value - 100) > 0.6 * spread else "black"
        axes.text(expert, layer, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)


def png(
    *draws: Callable[[Axes], None], height: float, title: str = "", limits: tuple[float, float] | None = None
) -> bytes:
    """A picture of one panel for each function, which draws it; `limits` of the y axis hold for all."""
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(len(draws), squeeze=False)[:, 0]
    legend: list[tuple[Artist, str]] = []
    for axes, draw in zip(panels, draws, strict=True):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        draw(axes)
        if limits is not None:
            axes.set_ylim(limits)
        earlier = {label for _, label in legend}
        entries = zip(*axes.get_legend_handles_labels(), strict=True)
        legend += [(handle, label) for handle, label in entries if label not in earlier]
    if title:
        figure.suptitle(title, fontsize="large")
    if legend:
        # Outside, so that it never covers a step.
        handles, labels = zip(*legend, strict=True)
        columns = max(1, min(4, _LEGEND_LETTERS // max(map(len, labels))))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    stream = io.BytesIO()
    # Without a date or version in it, the same record gives the same picture.
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def plain(name: str) -> str:
    """A stranger's name as a label: matplotlib would read dollars as maths, and hide what begins with a line."""
    shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in name)[:40].replace("$", r"\$")
    return f" {shown}" if not shown or shown.startswith("_") else shown

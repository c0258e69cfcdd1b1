"""Layouts by time and memory: those that no other beats in both, and those that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from reports.palette import GOOD, MUTED, OTHER
from reports.picture import Form, picture

_MOST_NAMED = 6
_MOST_MARKS = 2_000  # of an SVG: more are an image
_HEIGHT_INCHES = 5.2
_SHOWN_ABOVE = 1.6  # of the limit; what needs more is at the edge
_TICKS = 7
_APART = 1.03


def front(seconds: Sequence[float], gib: Sequence[float]) -> list[int]:
    """Positions of the layouts that none is both faster and smaller than, the fastest first."""
    found: list[int] = []
    for row in sorted(range(len(seconds)), key=lambda row: (seconds[row], gib[row])):
        if not found or gib[row] < gib[found[-1]]:
            found.append(row)
    return found


def pareto_figure(
    name_of: Callable[[int], str],
    seconds: Sequence[float],
    gib: Sequence[float],
    limit_gib: float | None = None,
    form: Form = "png",
) -> bytes:
    """A picture of all layouts: a step's predicted time against the fullest rank's memory.

    Args:
        name_of: a layout, by its position.
        seconds: of a step.
        gib: peak memory of the fullest rank.
        limit_gib: what a device has; layouts above it do not fit.
        form: of the picture. In an SVG many points are one image, so that it stays small.

    Raises:
        ValueError: there is no layout.
    """
    if not len(seconds):
        raise ValueError("there is no layout to draw")
    draw = partial(_draw, name_of=name_of, seconds=seconds, gib=gib, limit_gib=limit_gib)
    return picture(draw, height=_HEIGHT_INCHES, form=form)


def _draw(
    axes: Axes,
    *,
    name_of: Callable[[int], str],
    seconds: Sequence[float],
    gib: Sequence[float],
    limit_gib: float | None,
) -> None:
    top = max(gib) if limit_gib is None else min(max(gib), _SHOWN_ABOVE * limit_gib)
    shown = [min(each, top) for each in gib]
    fits = [row for row in range(len(seconds)) if limit_gib is None or gib[row] <= limit_gib]
    best = [fits[at] for at in front([seconds[row] for row in fits], [gib[row] for row in fits])]
    large, others = sorted({*range(len(seconds))} - {*fits}), sorted({*fits} - {*best})
    for rows, colour, mark, label in ((large, OTHER, "x", "does not fit"), (others, MUTED, "o", "fits")):
        if rows:
            where = [seconds[row] for row in rows], [shown[row] for row in rows]
            dots = axes.scatter(*where, s=9, color=colour, marker=mark, label=label, linewidths=0.6 * (mark == "x"))
            dots.set_rasterized(len(rows) > _MOST_MARKS)
    if best:
        label = "fits, and none is both faster and smaller"
        axes.plot(
            [seconds[row] for row in best], [gib[row] for row in best], "D-", color=GOOD, ms=4, lw=0.8, label=label
        )
    _number(axes, _apart(best, seconds, gib)[:_MOST_NAMED], name_of, seconds, gib)
    if limit_gib is not None:
        axes.axhline(limit_gib, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set(xlabel="predicted seconds a step", ylabel="GiB of the fullest rank", title=f"{len(seconds):,} layouts")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0, top * 1.05)


def _apart(best: Sequence[int], seconds: Sequence[float], gib: Sequence[float]) -> list[int]:
    """Of these points, the fastest first, those far enough from the one before to have a number of their own."""
    kept: list[int] = []
    for row in best:
        if not kept or max(seconds[row] / seconds[kept[-1]], gib[kept[-1]] / gib[row]) > _APART:
            kept.append(row)
    return kept


def _number(
    axes: Axes, best: Sequence[int], name_of: Callable[[int], str], seconds: Sequence[float], gib: Sequence[float]
) -> None:
    """A number at each of these points, and its layout in the legend."""
    for number, row in enumerate(best, start=1):
        where = seconds[row], gib[row]
        axes.annotate(str(number), where, xytext=(0, -11), textcoords="offset points", fontsize=8, ha="center")
        label = f"{number}: {name_of(row)}".replace("$", r"\$")
        axes.plot([], [], linestyle="none", label=label)

"""Layouts by time and memory: those that no other beats in both, and those that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from reports.picture import BLUE, GREY, ORANGE, plain, png

_MOST_NAMED = 8
_HEIGHT_INCHES = 4.6


def front(seconds: Sequence[float], gib: Sequence[float]) -> list[int]:
    """Positions of the layouts that none is both faster and smaller than, the fastest first."""
    found: list[int] = []
    for row in sorted(range(len(seconds)), key=lambda row: (seconds[row], gib[row])):
        if not found or gib[row] < gib[found[-1]]:
            found.append(row)
    return found


def pareto_figure(
    names: Sequence[str], seconds: Sequence[float], gib: Sequence[float], limit_gib: float | None = None
) -> bytes:
    """A picture of all layouts: a step's predicted time against the fullest rank's memory, as PNG.

    Args:
        names: of the layouts.
        seconds: of a step.
        gib: peak memory of the fullest rank.
        limit_gib: what a device has; layouts above it do not fit.

    Raises:
        ValueError: there is no layout.
    """
    if not names:
        raise ValueError("there is no layout to draw")
    draw = partial(_draw, names=names, seconds=seconds, gib=gib, limit_gib=limit_gib)
    return png(draw, height=_HEIGHT_INCHES)


def _draw(
    axes: Axes, *, names: Sequence[str], seconds: Sequence[float], gib: Sequence[float], limit_gib: float | None
) -> None:
    fits = [row for row in range(len(names)) if limit_gib is None or gib[row] <= limit_gib]
    best = [fits[at] for at in front([seconds[row] for row in fits], [gib[row] for row in fits])]
    large, others = sorted({*range(len(names))} - {*fits}), sorted({*fits} - {*best})
    for rows, colour, size, label in (
        (large, GREY, 8, "does not fit"),
        (others, BLUE, 8, "fits"),
        (best, ORANGE, 26, "fits, and none is both faster and smaller"),
    ):
        if rows:
            where = [seconds[row] for row in rows], [gib[row] for row in rows]
            axes.scatter(*where, s=size, color=colour, label=label, linewidths=0, zorder=2 + (colour == ORANGE))
    if best:
        axes.plot([seconds[row] for row in best], [gib[row] for row in best], color=ORANGE, linewidth=0.8, zorder=2)
    _name(axes, best, names, seconds, gib)
    if limit_gib is not None:
        axes.axhline(limit_gib, color=GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="predicted seconds a step", ylabel="GiB of the fullest rank", title=f"{len(names):,} layouts")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)


def _name(
    axes: Axes, best: Sequence[int], names: Sequence[str], seconds: Sequence[float], gib: Sequence[float]
) -> None:
    """The fastest of the best by name, each beside its point."""
    for row in best[:_MOST_NAMED]:
        axes.annotate(
            plain(names[row]), (seconds[row], gib[row]), xytext=(5, 3), textcoords="offset points", fontsize=6,
            zorder=4,
        )  # fmt: skip

"""Where the time of a step goes, phase by phase."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from bench.judge.stats import Summary
from reports.formats import seconds_unit
from reports.palette import INK, OTHER, PAPER, PHASE_COLOURS, STRANGERS, letters_on
from reports.picture import WIDE, picture, plain

_LETTER_SHARE = 0.0115  # of the bar of a wide picture: what a letter takes


def phases(summary: Summary, width: float = WIDE) -> bytes:
    """One stacked bar: where the median steady step went, with what no phase covers in grey.

    A piece bears its name where that fits; all are in the legend. Neighbours are hatched in turns.
    """
    whole = summary.median_step_seconds
    unit = seconds_unit([whole])
    pieces = [*summary.phase_seconds.items()]
    rest = whole - sum(seconds for _, seconds in pieces)
    pieces += [("outside these", rest)] if rest > 0 else []

    def draw(axes: Axes) -> None:
        left = 0.0
        for index, (name, seconds) in enumerate(pieces):
            colour = PHASE_COLOURS.get(name, OTHER if name == "outside these" else STRANGERS[index % len(STRANGERS)])
            label = f"{plain(name)} {unit.of(seconds)} {unit.name}, {100 * seconds / whole:.1f} %"
            length = seconds / unit.size
            style: dict[str, Any] = {"color": colour, "edgecolor": PAPER, "linewidth": 0.8}
            if name == "pipeline":  # as in the schedule: waiting is no work
                style = {"facecolor": PAPER, "edgecolor": colour, "hatch": "////", "linewidth": 0.8}
            axes.barh(0, length, left=left, label=label, **style)
            if seconds > _LETTER_SHARE * WIDE / width * len(name) * whole:
                ink = INK if name == "pipeline" else letters_on(colour)
                box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5} if name == "pipeline" else None
                axes.text(left + length / 2, 0, plain(name), ha="center", va="center", fontsize=8, color=ink, bbox=box)
            left += length
        axes.set(yticks=[], xlabel=unit.long, title="Where a step's time goes (mean over ranks)")
        axes.margins(x=0, y=0.1)

    return picture(draw, height=2.4, width=width)

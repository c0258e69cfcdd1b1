"""Where the time of a step goes, phase by phase."""

from __future__ import annotations

from matplotlib.axes import Axes

from bench.judge.stats import Summary
from reports.picture import PALETTE, PHASE_COLOURS, plain, png


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

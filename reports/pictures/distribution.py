"""How the steady steps of the runs are distributed, beside the baseline's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from reports.palette import BASELINE, MEASURED
from reports.picture import WIDE, picture

_MAX_CURVES = 60
Floats = npt.NDArray[np.float64]


def distribution(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], width: float = WIDE) -> bytes:
    """The steady steps of each run as a thin line, ours over the baseline's, with the median of each side's runs."""
    sides = [(name, runs, colour) for name, runs, colour in _sides(ours, theirs) if runs]

    def draw(axes: Axes) -> None:
        for name, runs, colour in sides:
            picked, line = runs[:: -(-len(runs) // _MAX_CURVES)], "-" if colour == MEASURED else (0, (4, 1.5))
            for run in picked:
                axes.ecdf(run, color=colour, ls=line, lw=0.9, alpha=max(0.25, 0.8 - 0.02 * len(picked)))
            medians = [float(np.median(run)) for run in runs]
            middle = float(np.median(medians))
            axes.plot(medians, [0.5] * len(medians), color=colour, marker="|", ms=9, mew=1.5, ls="none")
            label = f"{name}: median {middle:.4g} s, {len(runs)} run{'s' * (len(runs) > 1)}"
            axes.axvline(middle, color=colour, ls=line, lw=1.8, label=label)
        low, high, note = _usual(np.concatenate([run for _, runs, _ in sides for run in runs]))
        if note:
            axes.annotate(note, (0.99, 0.06), xycoords="axes fraction", fontsize=8, ha="right")
        axes.set(xlabel="seconds", ylabel="share of steady steps", title="Steady steps: how many took at most so long")
        axes.set(xlim=(low, high), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return picture(draw, height=3.6, width=width)


def _sides(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> list[tuple[str, Sequence[Sequence[float]], str]]:
    return [("baseline", theirs, BASELINE), ("measured", ours, MEASURED)]


def _usual(seconds: Floats) -> tuple[float, float, str]:
    """Limits that a few late steps do not stretch, and what lies beyond."""
    low, middle, late = np.percentile(seconds, [0, 50, 95])
    reach = low + 1.3 * max(late - low, 0.01 * middle)
    beyond = seconds[seconds > reach]
    high = min(float(seconds.max()), reach) if len(beyond) else float(seconds.max())
    margin = 0.03 * max(high - low, 0.01 * middle)
    note = f"{len(beyond)} beyond the plot, up to {beyond.max():.3g} s" if len(beyond) else ""
    return float(low) - margin, high + margin, note

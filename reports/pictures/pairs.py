"""Each pair of an A/B comparison, and the mean of all with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports.palette import BASELINE, MEASURED
from reports.picture import WIDE, picture


def pairs_picture(
    changes_percent: Sequence[float], mean: float, interval: tuple[float, float], width: float = WIDE
) -> bytes:
    """How much longer head's step took than that of base, in percent, pair by pair."""

    def draw(axes: Axes) -> None:
        numbers = range(1, len(changes_percent) + 1)
        axes.axhspan(*interval, color=BASELINE, alpha=0.25, lw=0, label="confidence interval of the mean")
        axes.axhline(mean, color=BASELINE, lw=1.4, label="mean of the pairs")
        axes.axhline(0, color=BASELINE, lw=1, ls=(0, (4, 2)), label="no difference")
        axes.plot(numbers, changes_percent, color=MEASURED, marker="o", ms=5, ls="none", label="a pair")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title="Time per step of head against base", xlabel="pair", ylabel="%", xlim=(0.5, len(numbers) + 0.5))

    return picture(draw, height=3.0, width=width)

"""How evenly tokens fall on the experts of each layer."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.ticker import MaxNLocator

from bench.records.record import Record
from reports.palette import letters_on
from reports.picture import WIDE, picture

_MAX_EXPERT_LABELS = 16  # in a wide picture
_PALE, _DARK = "#f2f6fb", "#123f73"  # tones of what is measured: darker is more, on paper too


def expert_load(record: Record, width: float = WIDE) -> bytes:
    """A heat map: each expert's share of its layer's tokens, in percent of an even share."""
    load_LE = np.array(record.expert_load, dtype=np.float64)
    mean_L1 = load_LE.mean(axis=1, keepdims=True)
    relative_LE = 100 * np.divide(load_LE, mean_L1, out=np.zeros_like(load_LE), where=mean_L1 > 0)
    layers, experts = relative_LE.shape

    def draw(axes: Axes) -> None:
        # The ends are fixed unless the load is worse, so that two reports compare by eye.
        spread = max(50.0, float(np.abs(relative_LE - 100).max()))
        tones = LinearSegmentedColormap.from_list("load", (_PALE, _DARK))
        image = axes.imshow(relative_LE, aspect="auto", cmap=tones, vmin=100 - spread, vmax=100 + spread)
        axes.set(xlabel="expert", ylabel="layer", title="Expert load, percent of an even share: darker is more")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        if experts <= _MAX_EXPERT_LABELS * width / WIDE and layers <= _MAX_EXPERT_LABELS:
            _write_cells(axes, relative_LE, image.to_rgba(relative_LE))
        axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.09)

    return picture(draw, height=min(8.0, 1.6 + 0.34 * layers), width=width)


def _write_cells(axes: Axes, relative_LE: np.ndarray, colours_LE4: np.ndarray) -> None:
    for (layer, expert), value in np.ndenumerate(relative_LE):
        red, green, blue, _ = colours_LE4[layer, expert].tolist()
        colour = letters_on(to_hex((red, green, blue)))
        axes.text(expert, layer, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)

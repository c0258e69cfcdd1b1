"""One picture of panels as PNG bytes. Uses matplotlib's objects only: no pyplot, no state, no display."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.records.phases import PHASES

_DPI = 110
WIDTH_INCHES = 8.0
BLUE, GREY, ORANGE = "#1f5fa8", "#9aa3ad", "#c8641b"
# matplotlib's ten colours without its grey, which is for what has no name
PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
# One colour a phase in every picture of a report.
PHASE_COLOURS = dict(zip(PHASES, PALETTE, strict=False))
_LEGEND_LETTERS = 120  # that fit beside each other


def png(
    *draws: Callable[[Axes], None], height: float, title: str = "", limits: tuple[float, float] | None = None
) -> bytes:
    """A picture of one panel for each function, which draws it; `limits` of the y axis hold for all."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=_DPI, layout="constrained")
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
    # savefig would draw twice, which is most of a report's time. Without a date or version in it, the same record
    # gives the same picture.
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def plain(name: str) -> str:
    """A stranger's name as a label: matplotlib would read dollars as maths, and hide what begins with a line."""
    shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in name)[:40].replace("$", r"\$")
    return f" {shown}" if not shown or shown.startswith("_") else shown

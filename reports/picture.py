"""One picture of panels, as SVG or PNG bytes. Uses matplotlib's objects only: no pyplot, no state, no display.

An SVG keeps its words as text and follows the reader's light or dark scheme by itself, in a page and as a file. Without
a date, a version or a random name in it, the same record gives the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from reports.palette import DARK, INK, LINE, MUTED, PAPER

_DPI = 110
Form = Literal["svg", "png"]
WIDE, NARROW = 8.0, 4.3  # inches: a picture of its usual width, and one whose letters can be read on a phone
# In an inch, beside each other
_LEGEND_LETTERS, _TITLE_LETTERS = 15, 11
_HANDLE_LETTERS = 8  # that an entry's mark takes
# Points that words take in matplotlib's usual sizes
_EDGE, _SIDE = 5.0, 15.0
_TITLE, _TITLE_ROW, _LABEL, _TICK, _LEGEND_ROW = 21.0, 13.0, 16.0, 7.0, 13.0
_LEAST_PANEL = 36.0
_STYLE: dict[Any, Any] = {
    "axes.titley": 1.0,  # titles that look for room above their panel cost time and show little
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.axisbelow": True,
    "text.hinting": "none",  # letters bent to whole pixels take as long as drawing them
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


def picture(
    *draws: Callable[[Axes], None],
    height: float,
    title: str = "",
    limits: tuple[float, float] | None = None,
    tick_points: float = 19.0,
    width: float = WIDE,
    form: Form = "svg",
) -> bytes:
    """A picture of one panel for each function, which draws it; `limits` of the y axis hold for all.

    `width` and `height` in inches, the latter more where titles and the legend need it; `tick_points` is the height of
    the x axis' ticks with their figures.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI)
        FigureCanvasAgg(figure)  # measures words
        panels = list(figure.subplots(len(draws), squeeze=False)[:, 0])
        for axes, draw in zip(panels, draws, strict=True):
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            draw(axes)
            if limits is not None:
                axes.set_ylim(limits)
        rows = textwrap.wrap(title, int(_TITLE_LETTERS * width))
        _arrange(figure, panels, _legend(figure, panels), tick_points, len(rows))
        if rows:
            figure.suptitle("\n".join(rows), fontsize="large", y=1 - _EDGE / 72 / figure.get_figheight())
        return _as_svg(figure) if form == "svg" else _as_png(figure)


def _as_svg(figure: Figure) -> bytes:
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = stream.getvalue()
    root = drawn.index("<svg")
    inside = drawn.index(">", root) + 1
    return f"{drawn[root:inside]}\n <style>{_DARK_STYLE}</style>{drawn[inside:]}".encode()


def _as_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # savefig would draw twice, which is most of the time. This level of zlib takes half of the time of the usual one,
    # for 6 % more bytes.
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return stream.getvalue()


def _dark_style() -> str:
    """matplotlib writes colours into each element's style, which only rules that insist can change."""
    rules = [
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    rules += [f'[fill="{light}"]{{fill:{dark}}}' for light, dark in DARK.items()]  # of hatches
    return "@media (prefers-color-scheme:dark){" + "".join(rules) + "}"


_DARK_STYLE = _dark_style()


def _legend(figure: Figure, panels: Sequence[Axes]) -> int:
    """One legend of all panels, outside, so that it never covers a step; returns its number of rows."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return 0
    columns = _columns(list(map(len, entries)), _LEGEND_LETTERS * figure.get_figwidth())
    figure.legend(entries.values(), entries, loc="lower center", ncols=columns, fontsize=8, frameon=False)
    return -(-len(entries) // columns)


def _columns(lengths: Sequence[int], letters: float) -> int:
    """The most that fit beside each other, each as wide as the longest of its entries."""
    for columns in range(min(4, len(lengths)), 1, -1):
        split = np.array_split(lengths, columns)  # as matplotlib does
        if sum(max(column) + _HANDLE_LETTERS for column in split) <= letters:
            return columns
    return 1


def _arrange(figure: Figure, panels: Sequence[Axes], legend_rows: int, tick_points: float, title_rows: int) -> None:
    """Make room for the words around the panels. Points: 72 to an inch.

    Their heights are known, and of their widths only those at the y axis vary. matplotlib's own layouts measure every
    word several times, which took a third of a report's time.
    """
    more_rows = [_TITLE_ROW * (_wrap_title(axes, figure.get_figwidth()) - 1) for axes in panels]
    below = [tick_points + (_LABEL if axes.get_xlabel() else 0.0) for axes in panels]
    top = _EDGE + _TITLE * (1 + title_rows) + more_rows[0]
    bottom = below[-1] + _EDGE + legend_rows * _LEGEND_ROW
    gap = max(below[:-1], default=0.0) + _TITLE + max(more_rows[1:], default=0.0)
    words = top + bottom + gap * (len(panels) - 1)
    is_narrow = figure.get_figwidth() < WIDE
    more = sum(more_rows) + _TITLE * max(0, title_rows - 1) + (legend_rows * _LEGEND_ROW if is_narrow else 0.0)
    whole = max(72 * figure.get_figheight() + more, words + _LEAST_PANEL * len(panels))
    panel = (whole - words) / len(panels)
    figure.set_figheight(whole / 72)
    figure.subplots_adjust(top=1 - top / whole, bottom=bottom / whole, hspace=gap / panel)
    width, label = 72 * figure.get_figwidth(), _LABEL if any(axes.get_ylabel() for axes in panels) else 0.0
    left = min(max(_SIDE, _EDGE + label + _TICK + max(map(_widest, panels))), width / 2)
    figure.subplots_adjust(left=left / width, right=1 - _SIDE / width)
    for axes in panels:
        if is_narrow:  # a title may need the whole width
            axes.title.set_x((width / 2 - left) / (width - left - _SIDE))
        axes.xaxis.set_label_coords(0.5, -tick_points / panel)
        across = blended_transform_factory(figure.transFigure, axes.transAxes)
        axes.yaxis.set_label_coords((_EDGE + _LABEL - 3) / width, 0.5, transform=across)


def _wrap_title(axes: Axes, inches: float) -> int:
    """Break the title of a panel into rows that fit the picture; returns how many."""
    rows = textwrap.wrap(axes.get_title(), int(_TITLE_LETTERS * inches)) or [""]
    axes.title.set_text("\n".join(rows))
    return len(rows)


def _widest(axes: Axes) -> float:
    """The widest figure at the y axis."""
    return max((72 / _DPI * label.get_window_extent().width for label in axes.get_yticklabels()), default=0.0)


def plain(name: str) -> str:
    """A stranger's name as a label: matplotlib would read dollars as maths, and hide what begins with a line."""
    shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in name)[:40].replace("$", r"\$")
    return f" {shown}" if not shown or shown.startswith("_") else shown

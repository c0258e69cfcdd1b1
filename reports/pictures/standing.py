"""Where a case stands: tokens/s/p and s/step of its runs, beside the baseline's, with the interval of the change."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from bench.judge.evidence import FAMILY_ERROR
from bench.judge.metrics import MEAN, RATE, STEP
from bench.judge.verdict import Row
from bench.judge.words import change, confidence, interval_ends
from reports.case import CaseResult
from reports.palette import BAD, BASELINE, INK, MEASURED
from reports.picture import WIDE, picture
from reports.tables.comparison import interval_told
from reports.tables.glance import Glance, glances

_MAX_DOTS = 200
_TICKS = 1.2  # in an inch, at most
_OURS, _THEIRS = 0, 1  # rows of a panel


def standing(case: CaseResult, width: float = WIDE) -> bytes | None:
    """A panel for each of the two figures; None where no baseline judges."""
    found = glances(case)
    if found is None or found[0].row is None:
        return None
    panels = [
        partial(_panel, glance=each, row=each.row, theirs=_theirs(case, each), width=width)
        for each in found
        if each.row
    ]
    return picture(*panels, height=3.9, width=width)


def _theirs(case: CaseResult, glance: Glance) -> list[float]:
    """The figure of each run behind the baseline; none of a published one."""
    if glance.row is None or case.stored is None or case.stored.label != glance.row.label:
        return []
    if glance.row.metric == STEP:
        return [run.known_figures[STEP] for run in case.stored.runs]
    work, ranks = case.runs[0].record.work, case.runs[0].record.layout.world_size
    return [work.tokens_per_step / run.known_figures[MEAN] / ranks for run in case.stored.runs]


def _panel(axes: Axes, *, glance: Glance, row: Row, theirs: Sequence[float], width: float) -> None:
    size, interval = glance.unit.size, interval_ends(row)
    ends = [row.baseline * (1 + percent / 100) for percent in interval or ()]
    values = [each / size for each in (*glance.ours, *theirs, row.baseline, row.measured, *ends)]
    room = 0.06 * (max(values) - min(values) or values[0])
    axes.set(xlim=(min(values) - room, max(values) + room), ylim=(1.6, -0.6))
    _limit(axes, row, size)
    _dots(axes, [each / size for each in theirs], _THEIRS, BASELINE, "none", "a run of the baseline")
    axes.axvline(row.baseline / size, color=BASELINE, ls=(0, (4, 1.5)), lw=1.6, label="the baseline")
    if interval:
        label = f"{confidence(FAMILY_ERROR)} confidence interval of the change"
        drawn = [each / size for each in ends]
        axes.plot(drawn, [_OURS, _OURS], color=MEASURED, lw=5, alpha=0.35, solid_capstyle="butt", label=label)
        axes.plot(drawn, [_OURS, _OURS], color=MEASURED, ls="none", marker="|", ms=14, mew=1.6)
    _dots(axes, [each / size for each in glance.ours], _OURS, MEASURED, MEASURED, "a run measured")
    axes.plot(row.measured / size, _OURS, color=INK, marker="d", ms=7, ls="none", label="measured, the median")
    axes.set_yticks([_OURS, _THEIRS], [f"{what} {glance.unit.of(value)}" for what, value in _named(row)])
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.locator_params(axis="x", nbins=int(_TICKS * width))
    told = f" ({interval_told(row)})" if interval else ""
    axes.set_title(f"{glance.name}: {change(row.metric, row.change_percent)}{told}; {glance.better}")


def _named(row: Row) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("measured", row.measured), ("baseline", row.baseline)


def _dots(axes: Axes, values: Sequence[float], place: int, colour: str, face: str, label: str) -> None:
    """Each run's figure, a little above the line so that the interval can be seen."""
    shown = values[:: -(-len(values) // _MAX_DOTS) or 1]
    if shown:
        heights = [place - 0.28] * len(shown)
        axes.plot(shown, heights, color=colour, markerfacecolor=face, marker="o", ms=5, ls="none", label=label)


def _limit(axes: Axes, row: Row, size: float) -> None:
    """What is beyond the limit, where it is within sight."""
    if row.limit_percent is None:
        return
    edge, (low, high) = row.baseline * (1 + row.limit_percent / 100) / size, axes.get_xlim()
    worse = (low, edge) if row.metric == RATE else (edge, high)
    if worse[0] < worse[1]:
        axes.axvspan(
            *worse, facecolor="none", edgecolor=BAD, hatch="//", alpha=0.6, lw=0, label="slower than the limit"
        )

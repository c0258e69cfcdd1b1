"""The pipeline's schedule as it ran: one bar of phases for each stage, so that the bubble can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from bench.judge.stats import Summary
from bench.records.record import RankSamples, Record, Span
from reports.picture import PALETTE, PHASE_COLOURS, WIDTH_INCHES, plain, png

_MAX_STAGES = 16
_MAX_NAMES = 12
_MAX_READABLE = 16  # micro-batches
_ENLARGED = 8  # of them
_WAITING = "pipeline"
_NUMBERED = ("forward", "backward")
_LETTER_POINTS = 6.0
_AXES_POINTS = 0.85 * WIDTH_INCHES * 72


def schedule(record: Record, summary: Summary) -> bytes | None:
    """The last step of the first rank of each pipeline stage; None where no timeline was recorded.

    Of many micro-batches the start and the end follow enlarged: there the pipeline fills and drains.
    """
    rows = _first_of_each_stage(record.ranks)
    if not rows:
        return None
    end = max(span.end_seconds for rank in rows for span in rank.timeline) or 1.0
    micro_batches = record.work.num_micro_batches
    panels = [(0.0, end, _title(record, summary))]
    if micro_batches > _MAX_READABLE:
        backward = [span.end_seconds for rank in rows for span in rank.timeline if span.phase == "backward"]
        last, part = max(backward, default=end), end * _ENLARGED / micro_batches
        panels += [(0.0, part, "its start"), (max(0.0, last - part), last, "and the end of its last micro-batches")]
    draws = [
        partial(_panel, rows=rows, micro_batches=micro_batches, limits=panel[:2], title=panel[2]) for panel in panels
    ]
    return png(*draws, height=0.6 + len(panels) * (0.9 + 0.45 * len(rows)))


def _panel(
    axes: Axes, *, rows: Sequence[RankSamples], micro_batches: int, limits: tuple[float, float], title: str
) -> None:
    for name in list(dict.fromkeys(span.phase for rank in rows for span in rank.timeline))[:_MAX_NAMES]:
        _draw_phase(axes, rows, name)
    for row, rank in enumerate(rows):
        _number(axes, row, rank.timeline, micro_batches, limits)
    axes.set_yticks(range(len(rows)), [f"stage {rank.stage}\nrank {rank.rank}" for rank in rows])
    axes.set(xlabel="seconds from the step's start on that rank", title=title, xlim=limits)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _first_of_each_stage(ranks: Sequence[RankSamples]) -> list[RankSamples]:
    first: dict[int, RankSamples] = {}
    for rank in sorted(ranks, key=lambda each: (each.stage, each.rank)):
        if rank.timeline:
            first.setdefault(rank.stage, rank)
    return list(first.values())[:_MAX_STAGES]


def _draw_phase(axes: Axes, rows: Sequence[RankSamples], name: str) -> None:
    colour = PHASE_COLOURS.get(name, PALETTE[-1])
    # Waiting is what the picture is for: hatched, it reads as a hole and not as work.
    face, edge, hatch = ("white", colour, "////") if name == _WAITING else (colour, "white", "")
    label = f"{plain(name)}: waits and transfers" if name == _WAITING else plain(name)
    for row, rank in enumerate(rows):
        stretches = [(s.start_seconds, s.end_seconds - s.start_seconds) for s in rank.timeline if s.phase == name]
        if stretches:
            place = (row - 0.36, 0.72)
            axes.broken_barh(stretches, place, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.4, label=label)
            label = ""  # one entry in the legend


def _number(axes: Axes, row: int, spans: Sequence[Span], micro_batches: int, limits: tuple[float, float]) -> None:
    """One-forward-one-backward takes the micro-batches in order: the n-th bar of a kind is the n-th of them."""
    scale = _AXES_POINTS / (limits[1] - limits[0])
    for name in _NUMBERED:
        found = [span for span in spans if span.phase == name]
        if len(found) != micro_batches:
            continue  # parts of micro-batches, or of another schedule
        for number, span in enumerate(found, start=1):
            room, middle = (span.end_seconds - span.start_seconds) * scale, (span.start_seconds + span.end_seconds) / 2
            if room > _LETTER_POINTS * (len(str(number)) + 0.5) and limits[0] < middle < limits[1]:
                axes.text(middle, row, str(number), ha="center", va="center", fontsize=8, color="white", clip_on=True)


def _title(record: Record, summary: Summary) -> str:
    step = f"Step {record.steps[-1].step} by pipeline stage, as measured"
    if summary.bubble_measured is None:
        return step
    return f"{step}: bubble {summary.bubble_measured:.1%}, ideal {summary.bubble_ideal:.1%}"

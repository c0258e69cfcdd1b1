"""The pipeline's schedule as it ran: one bar of phases for each stage, so that the bubble can be seen.

Where stages have several model chunks, the bar has a lane for each, the first on top, and later chunks are paler.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from bench.judge.stats import Summary, bubble_of_step
from bench.plan.schedule import turns
from bench.records.record import RankSamples, Record, Span
from reports.formats import percent, seconds_unit
from reports.palette import OTHER, PAPER, PHASE_COLOURS, letters_on
from reports.picture import WIDE, picture, plain

_MAX_STAGES = 16
_MAX_NAMES = 12
_MAX_READABLE = 16  # micro-batches
_ENLARGED = 8  # of them
_WAITING = "pipeline"
_NUMBERED = ("forward", "backward")
_LETTER_POINTS = 6.0
_AXES_SHARE = 0.85  # of the width
_BAR = 0.72  # of a row's height
_READABLE_LANES = 2  # in a row of the usual height


class Order(NamedTuple):
    """In which order a stage runs its chunks' micro-batches."""

    stages: int
    micro_batches: int
    chunks: int

    def passes(self, phase: str) -> list[tuple[int, int]]:
        """(micro-batch, chunk) of each forward or backward in turn, counted from 0.

        megatron's: as many micro-batches as there are stages run one chunk, then the next; backward from the last.
        """
        return [
            (micro_batch, self.chunks - 1 - chunk if phase == "backward" else chunk)
            for micro_batch, chunk in turns(self.stages, self.chunks, self.micro_batches)
        ]


def schedule(record: Record, summary: Summary, width: float = WIDE) -> bytes | None:
    """The last step of the first rank of each pipeline stage; None where no timeline was recorded.

    Of many micro-batches the start and the end follow enlarged: there the pipeline fills and drains.
    """
    rows = _first_of_each_stage(record.ranks)
    if not rows:
        return None
    end = max(span.end_seconds for rank in rows for span in rank.timeline) or 1.0
    order = Order(record.layout.pipeline, record.work.num_micro_batches, record.layout.virtual_pipeline)
    panels = [(0.0, end, _title(record, summary, order))]
    if order.micro_batches > _MAX_READABLE:
        backward = [span.end_seconds for rank in rows for span in rank.timeline if span.phase == "backward"]
        last, part = max(backward, default=end), end * _ENLARGED / order.micro_batches
        panels += [(0.0, part, "its start"), (max(0.0, last - part), last, "and the end of its last micro-batches")]
    draws = [partial(_panel, rows=rows, order=order, limits=panel[:2], title=panel[2], width=width) for panel in panels]
    row_height = 0.45 * min(4.0, max(1.0, order.chunks / _READABLE_LANES))
    return picture(*draws, height=0.6 + len(panels) * (0.9 + row_height * len(rows)), width=width)


def _panel(
    axes: Axes, *, rows: Sequence[RankSamples], order: Order, limits: tuple[float, float], title: str, width: float
) -> None:
    for name in list(dict.fromkeys(span.phase for rank in rows for span in rank.timeline))[:_MAX_NAMES]:
        _draw_phase(axes, rows, name, order)
    for row, rank in enumerate(rows):
        _number(axes, row, rank.timeline, order, limits, width)
    axes.set_yticks(range(len(rows)), [f"stage {rank.stage}\nrank {rank.rank}" for rank in rows])
    lanes = f"; a stage's {order.chunks} chunks in lanes, the first on top" if order.chunks > 1 else ""
    unit = seconds_unit([limits[1]])
    axes.set(xlabel=f"{unit.long} from the step's start on that rank{lanes}", title=title, xlim=limits)
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds / unit.size:,.10g}")
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _first_of_each_stage(ranks: Sequence[RankSamples]) -> list[RankSamples]:
    first: dict[int, RankSamples] = {}
    for rank in sorted(ranks, key=lambda each: (each.stage, each.rank)):
        if rank.timeline:
            first.setdefault(rank.stage, rank)
    return list(first.values())[:_MAX_STAGES]


def _draw_phase(axes: Axes, rows: Sequence[RankSamples], name: str, order: Order) -> None:
    colour = PHASE_COLOURS.get(name, OTHER)
    # Waiting is what the picture is for: hatched, it reads as a hole and not as work.
    face, edge, hatch = (PAPER, colour, "////") if name == _WAITING else (colour, PAPER, "")
    labelled = set()
    for row, rank in enumerate(rows):
        for lane, spans in _lanes(rank.timeline, name, order).items():
            chunk, height = (0, _BAR) if lane is None else (lane, _BAR / order.chunks)
            axes.broken_barh(
                [(span.start_seconds, span.end_seconds - span.start_seconds) for span in spans],
                (row - _BAR / 2 + chunk * height, height),
                facecolor=_paler(face, chunk / order.chunks),
                edgecolor=edge,
                hatch=hatch,
                linewidth=0.4,
                label="" if lane in labelled else _label(name, lane),  # one entry in the legend
            )
            labelled.add(lane)


def _lanes(timeline: Sequence[Span], name: str, order: Order) -> dict[int | None, list[Span]]:
    """A phase's spans by chunk; under None those that are no chunk's, or where there is but one."""
    found = [span for span in timeline if span.phase == name]
    passes = _passes(name, len(found), order) if order.chunks > 1 else []
    if not passes:
        return {None: found} if found else {}
    lanes: dict[int | None, list[Span]] = {}
    for span, (_, chunk) in zip(found, passes, strict=True):
        lanes.setdefault(chunk, []).append(span)
    return dict(sorted(lanes.items()))


def _passes(name: str, count: int, order: Order) -> list[tuple[int, int]]:
    """The phase's passes in turn; none where the bars are parts of micro-batches, or of another schedule."""
    is_whole = name in _NUMBERED and count == order.micro_batches * order.chunks
    return order.passes(name) if is_whole else []


def _label(name: str, chunk: int | None) -> str:
    waiting = ": waits and transfers" if name == _WAITING else ""
    return f"{plain(name)}{waiting}" if chunk is None else f"{plain(name)}, chunk {chunk + 1}"


def _paler(colour: str, share: float) -> str:
    """That share of the way to white, but no more than half of it."""
    red, green, blue = (part + (1 - part) * share / 2 for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _number(
    axes: Axes, row: int, timeline: Sequence[Span], order: Order, limits: tuple[float, float], width: float
) -> None:
    scale, height = _AXES_SHARE * 72 * width / (limits[1] - limits[0]), _BAR / order.chunks
    for name in _NUMBERED:
        found = [span for span in timeline if span.phase == name]
        for span, (micro_batch, chunk) in zip(found, _passes(name, len(found), order), strict=False):
            number = str(micro_batch + 1)
            room, middle = (span.end_seconds - span.start_seconds) * scale, (span.start_seconds + span.end_seconds) / 2
            half = _LETTER_POINTS * len(number) / 2 / scale
            is_whole = limits[0] <= middle - half and middle + half <= limits[1]
            if room > _LETTER_POINTS * (len(number) + 0.5) and is_whole:
                place = row - _BAR / 2 + (chunk + 0.5) * height
                ink = letters_on(_paler(PHASE_COLOURS[name], chunk / order.chunks))
                axes.text(middle, place, number, ha="center", va="center", fontsize=8, color=ink, clip_on=True)


def _title(record: Record, summary: Summary, order: Order) -> str:
    step = f"Step {record.steps[-1].number} by pipeline stage, as measured"
    measured = bubble_of_step(record, -1)
    if measured is None:
        return step
    formula = f"{order.stages - 1} / ({order.micro_batches} x {order.chunks} + {order.stages - 1}) = "
    ideal = f"{formula if order.chunks > 1 else ''}{percent(summary.bubble_ideal)}"
    return f"{step}: bubble {percent(measured)}, ideal {ideal}"

"""The trend of a series as SVG in the page: every point, the levels, and the changes between them.

Lengths are shares of the picture, so that it is as wide as the page while its words keep their size. Whatever a colour
says, a shape or a word says too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.history.change_points import ChangePoint
from bench.history.points import Point
from bench.history.store import Entry
from bench.history.words import commit_name, told_size
from bench.records.fields import utc_moment
from reports.history.scale import Scale, scale_of
from reports.markup import Html, shown

_MOST_MARKS = 200  # points that have words and a link of their own
_MOST_DATES = 5
_MOST_GAPS = 6
_GAP_DAYS = 14
_MOST_NAMED = 8  # changes
_RIGHT_EDGE = 85.0  # percent: words beyond end at their place, and do not begin there


def trend(points: Sequence[Point], changes: Sequence[ChangePoint], address: Callable[[int], str]) -> Html:
    """The picture; `address` is where the figures of a point are told, given its number."""
    series = [run for point in points for run in point.runs]
    scale, across = scale_of(points), _Across(len(series))
    drawn = [
        *(f'<line class="grid" x2="100%" y1="{tick.y:.2f}%" y2="{tick.y:.2f}%"/>' for tick in scale.ticks),
        *_gaps(points, across),
        _dots(points, scale, across),
        *_levels(series, changes, scale, across),
        *_changes(changes, across),
    ]
    if len(points) <= _MOST_MARKS:
        drawn += [_mark(point, scale, across, address(number)) for number, point in enumerate(points)]
    label = f"Trend of {len(points)} points; the table of points has their figures"
    left = "".join(f'<span style="top:{tick.y:.2f}%">{tick.tokens}</span>' for tick in scale.ticks)
    right = "".join(f'<span style="top:{tick.y:.2f}%">{tick.seconds}</span>' for tick in scale.ticks)
    return Html(
        f'<figure class="trend"><div class="units"><span>{"tokens/s/p" if scale.tokens else ""}</span>'
        f'<span>s/step</span></div><div class="plot"><div class="left">{left}</div>'
        f'<svg role="group" aria-label="{label}">{"".join(drawn)}</svg>'
        f'<div class="right">{right}</div></div><div class="dates">{_dates(points, across)}</div>'
        f"<figcaption>{_caption(points, scale)}</figcaption></figure>\n"
    )


class _Across:
    """Places from left to right, in percent, of a place among the runs: runs are as far apart as each other."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def __call__(self, place: float) -> float:
        return 1 + 98 * place / self._runs

    def middle(self, point: Point) -> float:
        return self(point.at + len(point.runs) / 2)


def _dots(points: Sequence[Point], scale: Scale, across: _Across) -> str:
    """All points in one path, which takes a tenth of the bytes of as many circles."""
    dots = "".join(f"M{10 * across.middle(each):.1f} {10 * scale.y(each.seconds):.1f}h0" for each in points)
    kind = "dots" if len(points) <= _MOST_MARKS else "dots many"
    return (
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" overflow="visible">'
        f'<path class="{kind}" vector-effect="non-scaling-stroke" d="{dots}"/></svg>'
    )


def _mark(point: Point, scale: Scale, across: _Across, address: str) -> str:
    """The interval of a point, and its words where one points at it."""
    x, y = f"{across.middle(point):.2f}%", f"{scale.y(point.seconds):.2f}%"
    line = ""
    if point.interval is not None:
        ends = [f"{scale.y(end):.2f}%" for end in point.interval]
        line = f'<line class="interval" x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}"/>'
    rate = scale.rate(point.seconds)
    words = f"{point.newest.created_at[:10]}, {commit_name(point.newest)}: {rate and rate + ' tokens/s/p, '}"
    words += f"{point.seconds:.4g} s/step, {len(point.runs)} run{'s' * (len(point.runs) > 1)}"
    return f'<a href="{address}"><title>{shown(words)}</title>{line}<circle class="mark" cx="{x}" cy="{y}" r="7"/></a>'


def _levels(series: Sequence[Entry], changes: Sequence[ChangePoint], scale: Scale, across: _Across) -> list[str]:
    """A line at the median of each."""
    edges = [0, *(change.at for change in changes), len(series)]
    found = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        y = scale.y(statistics.median(entry.step_seconds for entry in series[start:end]))
        ends = f'x1="{across(start):.2f}%" x2="{across(end):.2f}%"'
        found.append(f'<line class="level" {ends} y1="{y:.2f}%" y2="{y:.2f}%"/>')
    return found


def _changes(changes: Sequence[ChangePoint], across: _Across) -> list[str]:
    """A line at each, and at the largest how large."""
    named = sorted(changes, key=lambda change: -abs(change.percent))[:_MOST_NAMED]
    found = []
    for change in changes:
        x = across(change.at)
        kind = "change" if change.percent > 0 else "change better"
        found.append(f'<line class="{kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="0%" y2="100%"/>')
        if change in named:
            side = 'dx="-4" text-anchor="end"' if x > _RIGHT_EDGE else 'dx="4"'
            found.append(f'<text x="{x:.2f}%" y="-5" {side}>{told_size(change)}</text>')
    return found


def _gaps(points: Sequence[Point], across: _Across) -> list[str]:
    """Where nothing ran for weeks, which places by run do not show."""
    days = [utc_moment(point.runs[0].created_at).toordinal() for point in points]
    gaps = [(days[place] - days[place - 1], points[place].at) for place in range(1, len(points))]
    found = []
    for length, at in sorted(gap for gap in gaps if gap[0] >= _GAP_DAYS)[-_MOST_GAPS:]:
        x = across(at)
        side = 'dx="-4" text-anchor="end"' if x > _RIGHT_EDGE else 'dx="4"'
        found.append(f'<line class="gap" x1="{x:.2f}%" x2="{x:.2f}%" y1="0%" y2="100%"/>')
        found.append(f'<text class="quiet" x="{x:.2f}%" y="98%" {side}>{length} days</text>')
    return found


def _dates(points: Sequence[Point], across: _Across) -> str:
    """Day and commit of a few points; those between the first and the last are left out where the page is narrow."""
    count = min(len(points), _MOST_DATES)
    places = sorted({round(number * (len(points) - 1) / max(count - 1, 1)) for number in range(count)})
    found = []
    for place in places:
        kind = {0: "first", len(points) - 1: "last"}.get(place, "between")
        kind = "alone" if len(points) == 1 else kind
        newest = points[place].newest
        x = across.middle(points[place])
        found.append(
            f'<span class="{kind}" style="left:{x:.2f}%">{shown(newest.created_at[:10])}'
            f"<br>{shown(commit_name(newest)[:7])}</span>"
        )
    return "".join(found)


def _caption(points: Sequence[Point], scale: Scale) -> str:
    beyond = sum(scale.is_beyond(point.seconds) for point in points)
    told = "Higher is faster. A dot is a point of the table, a thick line the median of a level, "
    told += "a dashed line a change."
    told += " Thin lines are 95 % intervals." if len(points) <= _MOST_MARKS and points[0].interval else ""
    return told + (f" {beyond} points beyond the scale are drawn at its edge." if beyond else "")

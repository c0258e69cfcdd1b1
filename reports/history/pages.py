"""The pages of a history: the index of all cases, each case, and all points of a case that has many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.history.change_points import LEAST_RUNS
from bench.history.words import between, commit_name, hints, place, summary, told_size
from reports.formats import rate_unit, seconds_unit
from reports.history import tables
from reports.history.frame import page
from reports.history.series import SHOWN_POINTS, Series, case_page, points_page
from reports.history.spark import spark
from reports.history.tables import RecordAddress
from reports.history.trend import trend
from reports.markup import Html, link, listed, shown, table

INDEX = "index.html"
_MOST_CHANGES = 30


def index(cases: Mapping[str, Sequence[Series]]) -> bytes:
    """Every series in a row: its last value, its course and its last change; then the latest changes of all."""
    series = [each for found in cases.values() for each in found]
    runs = sum(len(each.runs) for each in series)
    days = sorted(run.created_at[:10] for each in series for run in (each.runs[0], each.runs[-1]))
    warned = [Html(f"{_named(each)}: {shown(words)}") for each in series for words in each.warnings]
    parts = [
        f"<h1>{_headline(series)}</h1>",
        f"<p>{runs:,} runs of {len(cases):,} cases, {days[0]} to {days[-1]}. {_HOW}</p>",
        listed(warned),
        _cases(series),
        _latest(series),
        *(f"<p>{shown(hint)}</p>" for hint in hints([each.runs for each in series])),
    ]
    return page("History of step times", "".join(parts))


_HOW = (
    "Devices, recipes, layouts and number formats are never mixed, nor are machines where they are named. "
    "tokens/s/p: tokens per second per processor. This only reports; verdicts come from the gate and from A/B."
)


def _headline(series: Sequence[Series]) -> str:
    lost = sum(bool(each.warnings) for each in series)
    if lost:
        return f"{lost} of {len(series)} series lost speed that they once had"
    return f"No loss of speed was found in {len(series)} series"


def _named(series: Series) -> Html:
    return link(f"{case_page(series.case)}#{series.name}", f"{series.case} on {place(series.runs)}")


def _cases(series: Sequence[Series]) -> Html:
    rates = rate_unit(each.runs[-1].tokens_per_second_per_processor for each in series)
    step = seconds_unit(each.runs[-1].step_seconds for each in series)
    headers = ["case", "where", "trend", "tokens/s/p", step.per("step"), "last change", "last run", "commit", "runs"]
    rows = [
        [
            link(f"{case_page(each.case)}#{each.name}", each.case),
            place(each.runs),
            spark(each.runs),
            rates.of(each.runs[-1].tokens_per_second_per_processor),
            step.of(each.runs[-1].step_seconds),
            _last_change(each),
            each.runs[-1].created_at[:10],
            commit_name(each.runs[-1]),
            f"{len(each.runs):,}",
        ]
        for each in series
    ]
    return table("Every case, with its last run", headers, rows, numbers=(3, 4, 8), words=(0, 1), cards=True)


def _last_change(series: Series) -> object:
    if len(series.runs) < 2 * LEAST_RUNS:
        return "too few runs"
    if not series.changes:
        return "none"
    last = series.changes[-1]
    address = f"{case_page(series.case)}#{series.change_id(last)}"
    return link(address, f"{told_size(last)}, {series.runs[last.at].created_at[:10]}, {last.sureness}")


def _latest(series: Sequence[Series]) -> Html:
    found = [(each, change) for each in series for change in each.changes]
    found.sort(key=lambda pair: pair[0].runs[pair[1].at].created_at, reverse=True)
    if not found:
        return Html("<h2>Latest changes</h2><p>No change was found.</p>")
    rows = [
        [
            each.runs[change.at].created_at[:10],
            link(f"{case_page(each.case)}#{each.change_id(change)}", each.case),
            place(each.runs),
            told_size(change),
            between(each.runs, change),
            change.sureness,
        ]
        for each, change in found[:_MOST_CHANGES]
    ]
    told = table(
        "Latest changes of all cases",
        ["by", "case", "where", "a step is", "commits", "sureness"],
        rows,
        words=(1, 2, 4),
        cards=True,
    )
    more = len(found) - _MOST_CHANGES
    return Html(f"<h2>Latest changes</h2>{told}" + (f"<p>and {more:,} more</p>" if more > 0 else ""))


def case(series: Sequence[Series], records: RecordAddress) -> bytes:
    """All series of a case, one after the other."""
    name = series[0].case
    parts = [f"<nav>{link(INDEX, 'all cases')}</nav><h1>{shown(name)}</h1>"]
    if len(series) > 1:
        parts.append(_contents(series))
    return page(name, "".join([*parts, *(_section(each, records) for each in series)]))


def _contents(series: Sequence[Series]) -> Html:
    last = [each.runs[-1] for each in series]
    tokens = rate_unit(each.tokens_per_second_per_processor for each in last)
    seconds = seconds_unit(each.step_seconds for each in last)
    rows = [
        [
            link(f"#{each.name}", place(each.runs)),
            spark(each.runs),
            tokens.of(each.runs[-1].tokens_per_second_per_processor),
            seconds.of(each.runs[-1].step_seconds),
            _last_change(each),
            f"{len(each.runs):,}",
        ]
        for each in series
    ]
    headers = ["where", "trend", "tokens/s/p", seconds.per("step"), "last change", "runs"]
    return table("Where it ran; these are never mixed", headers, rows, numbers=(2, 3, 5), words=(0,), cards=True)


def _section(series: Series, records: RecordAddress) -> str:
    count = len(series.points)
    newest = range(count - 1, max(count - SHOWN_POINTS, 0) - 1, -1)
    parts = [
        f'<h2 id="{series.name}">{shown(place(series.runs))}</h2>',
        f"<p>{shown(summary(series.runs, series.changes))}.</p>",
        listed(series.warnings),
        trend(series.points, series.changes, series.address),
        tables.changes(series) if series.changes else "",
        f"<p>{_POINT}</p>",
        tables.points(series, newest, records, "Points, the newest first"),
    ]
    if count > SHOWN_POINTS:
        parts.append(f"<p>{link(f'{points_page(series.case)}#{series.name}', f'All {count:,} points')}</p>")
    parts.append(tables.versions(series) if series.versions else "")
    return "".join(parts)


_POINT = (
    "A point is the runs of one commit on one day. Its s/step is their geometric mean; the interval comes from how "
    "much runs of one point differ, in all points here together."
)


def all_points(series: Sequence[Series], records: RecordAddress) -> bytes:
    """Every point of every series of a case."""
    name = series[0].case
    parts = [f"<nav>{link(INDEX, 'all cases')} / {link(case_page(name), name)}</nav><h1>{shown(name)}: all points</h1>"]
    for each in series:
        newest = range(len(each.points) - 1, -1, -1)
        parts.append(f'<h2 id="{each.name}">{shown(place(each.runs))}</h2>')
        parts.append(tables.points(each, newest, records, "All points, the newest first"))
    return page(f"{name}: all points", "".join(parts))

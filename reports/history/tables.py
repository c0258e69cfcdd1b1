"""The tables of a series' page: its changes, its points with their records, the versions that ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.history.points import Point
from bench.history.store import Entry
from bench.history.words import between, commit_name, how_sure, told_size
from reports.formats import Unit, rate_unit, seconds_unit
from reports.history.series import Series
from reports.history.software import differences, versions_of
from reports.markup import Html, link, shown, table

RecordAddress = Callable[[Entry], str | None]  # where the record of a run lies, as the page sees it
_MOST_RECORDS = 12  # of a point


def changes(series: Series) -> Html:
    """Every change, the newest first: its size, between which commits, and what it rests on."""
    found = series.changes[::-1]
    unit = seconds_unit(each for change in found for each in (change.before_seconds, change.after_seconds))
    headers = ["by", "a step is", unit.per("step"), "where", "other versions", "runs", "sureness"]
    rows = [
        [
            series.runs[change.at].created_at[:10],
            told_size(change),
            f"{unit.of(change.before_seconds)} to {unit.of(change.after_seconds)}",
            between(series.runs, change),
            differences(*(versions_of(series.runs[place]) for place in (change.at - 1, change.at))) or "–",
            f"{change.runs[0]} and {change.runs[1]}",
            how_sure(change),
        ]
        for change in found
    ]
    ids = [series.change_id(change) for change in found]
    return table("Changes, the newest first", headers, rows, numbers=(2,), words=(3, 4), ids=ids, cards=True)


def points(series: Series, numbers: Sequence[int], records: RecordAddress, caption: str) -> Html:
    """These points of a series, in the given order. Figures come first, as a phone shows three or four columns."""
    found = [series.points[number] for number in numbers]
    rate, seconds = rate_unit(map(_rate, found)), seconds_unit(each.seconds for each in found)
    headers = ["day", "tokens/s/p", seconds.per("step"), "95 % interval", "commit", "runs", "versions", "verdict"]
    rows = [_point(series, each, rate, seconds, records) for each in found]
    ids = [series.point_id(number) for number in numbers]
    return table(caption, [*headers, "records"], rows, numbers=(1, 2, 3, 5), words=(7, 8), ids=ids)


def _rate(point: Point) -> float:
    """Tokens/s/p at the point's step time."""
    return point.newest.tokens_per_second_per_processor * point.newest.step_seconds / point.seconds


def _point(series: Series, point: Point, rate: Unit, seconds: Unit, records: RecordAddress) -> list[object]:
    newest = point.newest
    name = series.versions.get(versions_of(newest))
    return [
        newest.created_at[:10],
        rate.of(_rate(point)),
        seconds.of(point.seconds),
        "–" if point.interval is None else " to ".join(map(seconds.of, point.interval)),
        commit_name(newest),
        len(point.runs),
        "–" if name is None else name,
        _verdicts(point),
        _records(point, records),
    ]


def _verdicts(point: Point) -> str:
    states = [run.state.replace("_", " ") for run in point.runs if run.state is not None]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "–"


def _records(point: Point, records: RecordAddress) -> Html:
    told = []
    for run in point.runs[:_MOST_RECORDS]:
        address = records(run)
        told.append(shown(run.record_id[:8]) if address is None else link(address, run.record_id[:8]))
    more = len(point.runs) - _MOST_RECORDS
    return Html(" ".join(told) + (f" and {more} more" if more > 0 else ""))


def versions(series: Series) -> Html:
    """Each set of versions by its name, and in what it differs from the one before it."""
    found = list(series.versions)
    rows = []
    for place, (each, name) in enumerate(series.versions.items()):
        told = ", ".join(f"{package} {version}" for package, version in each)
        rows.append([name, differences(found[place - 1], each) if place else "–", told])
    return table("Versions that ran", ["set", "other than before", "all"], rows, words=(1, 2))

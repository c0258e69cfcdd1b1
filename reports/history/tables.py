"""The tables of a series' page: its changes, its points with their records, the versions that ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.history.points import Point
from bench.history.store import Entry
from bench.history.words import between, commit_name, how_sure, told_size
from reports.formats import rate
from reports.history.series import Series
from reports.history.software import differences, versions_of
from reports.markup import Html, link, shown, table

RecordAddress = Callable[[Entry], str | None]  # where the record of a run lies, as the page sees it
_MOST_RECORDS = 12  # of a point


def changes(series: Series) -> Html:
    """Every change, the newest first: its size, between which commits, and what it rests on."""
    found = series.changes[::-1]
    headers = ["by", "a step is", "s/step", "where", "other versions", "runs", "sureness"]
    rows = [
        [
            series.runs[change.at].created_at[:10],
            told_size(change),
            f"{change.before_seconds:.4g} to {change.after_seconds:.4g}",
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
    """These points of a series, in the given order."""
    headers = ["day", "commit", "runs", "tokens/s/p", "s/step", "95 % interval", "versions", "verdict", "records"]
    rows = [_point(series, series.points[number], records) for number in numbers]
    ids = [series.point_id(number) for number in numbers]
    return table(caption, headers, rows, numbers=range(2, 6), words=(7, 8), ids=ids)


def _point(series: Series, point: Point, records: RecordAddress) -> list[object]:
    newest = point.newest
    tokens = newest.tokens_per_second_per_processor * newest.step_seconds / point.seconds
    name = series.versions.get(versions_of(newest))
    return [
        newest.created_at[:10],
        commit_name(newest),
        len(point.runs),
        rate(tokens),
        f"{point.seconds:.4g}",
        "–" if point.interval is None else f"{point.interval[0]:.4g} to {point.interval[1]:.4g}",
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

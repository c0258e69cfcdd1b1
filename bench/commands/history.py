"""Show what runs measured over time, and where it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.baseline import Records
from bench.commands.picture_form import form_of
from bench.history import store as history
from bench.history import words
from bench.history.change_points import ChangePoint, change_points
from bench.history.store import Entry
from bench.history.trials import Found
from bench.records.files import read_records
from bench.records.jsonfile import write_atomically
from bench.records.terminal import plain, table
from grok1.cli import console
from grok1.cli.json_option import Json, write_json

app = console.App(help=__doc__)

_MONITOR = "This only reports, so the exit code is always 0; `python -m bench gate RECORDS` and `ab` give verdicts."

File = Annotated[Path, typer.Option("--history", metavar="FILE", help="The history file.")]
Case = Annotated[str | None, typer.Option(metavar="NAME", help="Only this case.")]
By = Annotated[
    history.Apart,
    typer.Option(help="Tell machines apart, or take all with the same device together."),
]
DEFAULT = Path("results") / history.FILE_NAME
_RECORDS = Path("results") / "records"


@app.command()
def add(records: Records, file: File = DEFAULT, json_path: Json = None) -> None:
    """Append valid records that are not there yet. `pytest bench/ --benchmark` does this by itself."""
    found = [record for _, record in read_records(records)]
    added = history.append(file, found)
    void = sum(not record.valid for record in found)
    planted = sum(record.valid and bool(record.planted_percent) for record in found)
    rest = f"{void} void, {len(found) - added - void - planted} there already"
    rest += f", {planted} made slower on purpose" if planted else ""
    print(f"added {added} of {len(found)} records to {plain(file, 5000)} ({rest})")
    write_json(
        json_path,
        {"schema": 1, "file": str(file), "records": len(found), "added": added, "void": void, "planted": planted},
    )


@app.command()
def show(file: File = DEFAULT, case: Case = None, by: By = "machine", json_path: Json = None) -> None:
    """Show every run, one per line, the oldest first."""
    chosen = _chosen(file, case, by)
    for series in chosen:
        print(f"{words.title(series)}\n\n{table(_HEADERS, [_row(entry) for entry in series], numbers=(2, 3, 4))}\n")
    write_json(json_path, {"schema": 1, "series": [{**_named(each), "runs": _dumped(each)} for each in chosen]})


@app.command()
def check(
    file: File = DEFAULT,
    case: Case = None,
    by: By = "machine",
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot the runs, as .png or .svg.")] = None,
    json_path: Json = None,
) -> None:
    """Find where the time of a step changed, by how much, between which commits, and how sure that is.

    A warning says when what was once gained is lost again. This is a monitor, not a gate: the exit code is always 0.
    """
    form = form_of("--plot", plot) if plot is not None else None
    series = _chosen(file, case, by)
    found = [change_points(each) for each in series]
    for each, points in zip(series, found, strict=True):
        print(f"{words.title(each)}: {words.summary(each, points)}")
        for line in [*(words.described(each, point) for point in points), *words.warnings(each, points)]:
            print(f"  {line}")
    for hint in words.hints(series):
        print(hint)
    print(_MONITOR)
    if plot is not None and form is not None:
        from reports.pictures.trends import trends

        levels = [[point.at for point in points] for points in found]
        write_atomically(plot, trends([(words.title(each), each) for each in series], levels, form))
        print(f"wrote {plain(plot, 5000)}")
    told = [_checked(each, points) for each, points in zip(series, found, strict=True)]
    write_json(json_path, {"schema": 1, "series": told})


@app.command(fills=console.into("output", ("*.html",)))  # any of these may be the page of a case
def site(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pages.")],
    file: File = DEFAULT,
    case: Case = None,
    by: By = "machine",
    records: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the runs' records, which the pages link to.")
    ] = _RECORDS,
    json_path: Json = None,
) -> None:
    """Write the history as pages: an index of all cases, and each case with its trend, its changes and its runs.

    They need no server: open DIR/index.html in a browser.
    """
    from reports.history.build import write_site

    if records != _RECORDS and not records.is_dir():
        raise ValueError(f"--records {records}: is no folder; give the one that holds the runs' records")
    chosen = _chosen(file, case, by)
    index = write_site(chosen, output, records)
    print(f"wrote {plain(index, 5000)}")
    series = [{**_named(each), "runs": len(each)} for each in chosen]
    write_json(json_path, {"schema": 1, "index": str(index), "series": series})


@app.command()
def selftest(
    trials: Annotated[int, typer.Option(help="Simulated histories a row.", min=2, max=10_000)] = 300,
    seed: Annotated[int, typer.Option(help="Of the simulation.", min=0, max=2**32)] = 0,
    json_path: Json = None,
) -> None:
    """Measure how often `check` finds a change, how soon, and how often it tells of one that is none."""
    from bench.history import trials as tried
    from bench.history.simulated import EQUAL, KINDS

    rows: dict[str, Found] = {kind: tried.found(kind, trials, seed) for kind in KINDS}
    rows["all"] = tried.total(list(rows.values()))
    cells = [[name, *_shares(each)] for name, each in rows.items()]
    print(f"{table(_FOUND_HEADERS, cells, numbers=range(1, 7))}\n")
    alarms = []
    for kind in EQUAL:
        shares = [tried.alarmed(kind, runs, trials, seed) for runs in (40, 100)]
        nightly = tried.ever_alarmed(kind, max(trials // 5, 1), seed)
        alarms.append([kind, *(f"{100 * share:.1f}" for share in (*shares, nightly))])
    print(table(_ALARM_HEADERS, alarms, numbers=(1, 2, 3)))
    found = [dict(zip(_FOUND_HEADERS, each, strict=True)) for each in cells]
    equal = [dict(zip(_ALARM_HEADERS, each, strict=True)) for each in alarms]
    write_json(json_path, {"schema": 1, "trials": trials, "seed": seed, "changes": found, "equal_runs": equal})


def _shares(found: Found) -> list[str]:
    right = [f"{100 * good / max(good + bad, 1):.0f}" for good, bad in (found.sure, found.likely)]
    whole = [f"{100 * share:.0f}" for share in (found.recall, found.told_soon, found.precision)]
    return [str(found.changes), *whole, *right]


def _named(series: Sequence[Entry]) -> dict[str, object]:
    first = series[0]
    return {"case": first.case, "device_name": first.device_name, "key": first.key}


def _dumped(series: Sequence[Entry]) -> list[object]:
    return [each.model_dump(mode="json", by_alias=True) for each in series]


def _checked(series: Sequence[Entry], points: Sequence[ChangePoint]) -> dict[str, object]:
    """What `check --json` says of one series: the run after each change, and the commits on both sides."""
    changes = [
        {
            **asdict(point),
            "percent": point.percent,
            "after_commit": series[point.at - 1].commit.sha,
            "by_commit": series[point.at].commit.sha,
            "record_id": series[point.at].record_id,
        }
        for point in points
    ]
    return {**_named(series), "runs": len(series), "changes": changes, "warnings": words.warnings(series, points)}


def _chosen(file: Path, case: str | None, by: history.Apart) -> list[list[Entry]]:
    entries = history.read(file)
    series = history.series_of(entries, case, by)
    if not series:
        known = ", ".join(dict.fromkeys(plain(entry.case) for entry in entries))
        raise ValueError(f"{file}: no runs{f' of {case}; it holds {known}' if case and known else ''}")
    return series


_FOUND_HEADERS = ("noise", "changes", "found %", "within 5 runs %", "right %", "right where sure %", "where likely %")
_ALARM_HEADERS = ("equal runs", "of 40: % of series", "of 100: % of series", "60 nights after 30: % of series")
_HEADERS = ("created", "commit", "s/step", "tokens/s/p", "peak GiB", "verdict", "run")


def _row(entry: Entry) -> list[str]:
    peak = entry.figures.get("peak_bytes")
    return [
        plain(entry.created_at),
        words.commit_name(entry),
        f"{entry.step_seconds:.4g}",
        f"{entry.tokens_per_second_per_processor:,.5g}",
        "-" if peak is None else f"{peak / 2**30:.2f}",
        "-" if entry.state is None else entry.state.replace("_", " "),
        entry.record_id[:8],
    ]

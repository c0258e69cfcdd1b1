"""`python -m bench selftest`: how often the gate is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.records.jsonfile import write_file


def selftest_command(
    records: Annotated[
        Path | None,
        typer.Option(help="A folder of records of one unchanged program, to replay instead of what ships."),
    ] = None,
    condition: Annotated[str, typer.Option(help="What those runs ran under, like quiet or busy neighbour.")] = "given",
    trials: Annotated[int, typer.Option(help="Draws of runs a figure.", min=10, max=100_000)] = 1000,
    store: Annotated[Path | None, typer.Option(help="Keep the records as a series in this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the power curves into this PNG file.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every count here.")] = None,
) -> None:
    """Replay recorded noise through the gate with slowdowns put in: how often it is wrong, and others' rules beside it.

    Without --records also simulated noise of 1 %. Exit 1 where the gate's false alarms are surely above the 1 % that it
    states.
    """
    from bench.records.record import Record
    from bench.selftest.replay import held_back, is_sound, replay
    from bench.selftest.series import FOLDER, read_series, series_of, simulated, write_series
    from bench.selftest.text import as_json, halves_table, json_text, table

    if records is None:
        series = [read_series(path) for path in sorted(FOLDER.glob("*.json"))]
        series.append(simulated(spread_percent=1.0))
    else:
        found = [Record.read(path) for path in sorted(records.glob("*.json"))]
        series = [series_of(condition, found)]
    if store is not None:
        write_series(store, series[0])
    outcomes, parts = [], []
    for each in series:
        replayed, halves = replay(each, trials), held_back(each, trials)
        print(f"{table(replayed, each)}\n\n{halves_table(halves)}\n")
        outcomes += replayed
        parts.append(as_json(each, replayed, halves))
    if json_path is not None:
        write_file(json_path, json_text(parts))
    if plot is not None:
        from reports.monitors import power_curves

        write_file(plot, power_curves(outcomes))
    if not is_sound(outcomes):
        print("the gate's false alarms are surely above what it states")
        raise typer.Exit(1)

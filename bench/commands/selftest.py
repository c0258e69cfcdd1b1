"""`python -m bench selftest`: measure how often the gate is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.records.jsonfile import write_atomically


def selftest_command(
    records: Annotated[
        Path | None,
        typer.Option(help="A folder of records of one unchanged program, to use instead of the shipped series."),
    ] = None,
    condition: Annotated[str, typer.Option(help="The condition of those runs, for example quiet or busy.")] = "given",
    trials: Annotated[
        int, typer.Option(help="Random draws of runs for each share that is reported.", min=10, max=100_000)
    ] = 1000,
    store: Annotated[Path | None, typer.Option(help="Store the records as a series in this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the power curves to this PNG file.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all counts to this file.")] = None,
) -> None:
    """Measure the gate's false alarms, and the slowdowns that it finds, compared with other projects' rules.

    Real runs of an unchanged program are drawn at random and artificial slowdowns are added. Without --records, a
    simulated series with 1 % noise is judged too. Exit 1 if false alarms are significantly more frequent than the
    stated 1 %.
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
        write_atomically(json_path, json_text(parts))
    if plot is not None:
        from reports.pictures.power_curves import power_curves

        write_atomically(plot, power_curves(outcomes))
    if not is_sound(outcomes):
        print("the gate's false alarms are significantly more frequent than the stated 1 %")
        raise typer.Exit(1)

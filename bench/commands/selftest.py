"""`python -m bench selftest`: measure how often the gate is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.picture_form import form_of
from bench.records.jsonfile import write_atomically
from grok1.cli.json_option import Json

if TYPE_CHECKING:
    from bench.records.record import Record
    from bench.selftest.series import Series


def selftest_command(
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of records of one unchanged program, to use instead of the shipped series. Give one for "
            "each session: records from before they named their session are of that of their folder."
        ),
    ] = None,
    condition: Annotated[str, typer.Option(help="The condition of those runs, for example quiet or busy.")] = "given",
    trials: Annotated[
        int, typer.Option(help="Random draws of runs for each share that is reported.", min=10, max=100_000)
    ] = 200,
    store: Annotated[Path | None, typer.Option(help="Store the records as a series in this file.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot the power curves, as .png or .svg.")] = None,
    json_path: Json = None,
) -> None:
    """Measure the gate's false alarms, and the slowdowns that it finds, compared with other projects' rules.

    Real runs of an unchanged program are judged in the order of time, and then drawn at random, with artificial
    slowdowns added. Without --records, simulated sessions and a simulated series with 1 % noise are judged too. Exit 1
    if false alarms on random draws are significantly more frequent than the stated 1 %.
    """
    from bench.selftest.levels import levels
    from bench.selftest.ordered import in_order
    from bench.selftest.replay import held_back, is_sound, replay
    from bench.selftest.series import FOLDER, read_series, simulated, write_series
    from bench.selftest.text import as_json, halves_table, json_text, levels_table, ordered_table, table, title

    form = form_of("--plot", plot) if plot is not None else None
    if records is None:
        series = [read_series(path) for path in sorted(FOLDER.glob("*.json"))]
        series.append(simulated(spread_percent=1.0))
        found = levels(trials)
        print(f"{levels_table(found)}\n")
    else:
        series, found = [_series_of(condition, records)], []
    if store is not None:
        write_series(store, series[0])
    outcomes, parts = [], []
    for each in series:
        ordered, replayed, halves = in_order(each), replay(each, trials), held_back(each, trials)
        texts = [title(each), ordered_table(ordered, each), table(replayed, each), halves_table(halves)]
        print("\n\n".join(filter(None, texts)) + "\n")
        outcomes += replayed
        parts.append(as_json(each, ordered, replayed, halves))
    if json_path is not None:
        write_atomically(json_path, json_text(parts, found))
    if plot is not None and form is not None and outcomes:
        from reports.pictures.power_curves import power_curves

        write_atomically(plot, power_curves(outcomes, form))
    if not is_sound(outcomes):
        print("the gate's false alarms are significantly more frequent than the stated 1 %")
        raise typer.Exit(1)


def _series_of(condition: str, folders: list[Path]) -> Series:
    """Of the records of these folders; one run is one piece of evidence."""
    from bench.records.files import read_records
    from bench.selftest.series import series_of

    by_folder: dict[Path, list[Record]] = {}
    for file, record in read_records(folders):
        by_folder.setdefault(file.parent, []).append(record)
    return series_of(condition, *by_folder.values())

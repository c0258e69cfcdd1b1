"""`python -m bench expected`: records beside what the planner expects of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.baseline import Records
from bench.judge.beside import Beside, Part, median_beside
from bench.judge.groups import grouped
from bench.records.expectation import write_expectations
from bench.records.figures import decimals, fixed
from bench.records.files import read_records
from bench.records.record import Record
from bench.records.terminal import plain, table
from grok1.cli.json_option import Json, write_json

DeviceProfile = Annotated[
    str | None,
    typer.Option(
        "--device-profile",
        metavar="NAME|FILE",
        help="A shipped device profile, or a .toml or .json file. Default: the one of the records' device, if any.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write it for `python -m reports RECORDS --expected FILE -o DIR`."
    ),
]


def expected_command(
    records: Records, device_profile: DeviceProfile = None, output: Output = None, json_path: Json = None
) -> None:
    """Show where a measured step loses time: each part beside what is expected of it, the worst first.

    Expected is what the planner (`python -m bench plan`) predicts of the recorded recipe and layout by a device
    profile. Logs that were ingested with their recipe have one time a step, and are compared as a whole.
    """
    from bench.plan.expected import expectation_of

    found = []
    for runs in grouped(record for _, record in read_records(records)):
        valid = [record for record in runs if record.valid]
        if not valid:
            print(f"{plain(runs[0].case)}: void, so that nothing is compared")
            continue
        found.append(expectation_of(valid[0], device_profile))
        print(told(valid, median_beside(valid, found[-1])), end="\n\n")
    write_json(
        json_path, {"schema": 1, "expectations": [each.model_dump(mode="json", by_alias=True) for each in found]}
    )
    if output is not None:
        write_expectations(output, found)
        where = plain(output, 5000)
        print(f"wrote {where}; next: python -m reports RECORDS --expected {shlex.quote(where)} -o DIR")


def told(runs: list[Record], found: Beside) -> str:
    """For a terminal."""
    of = found.expectation
    parts = (*found.parts, found.step)
    places = decimals(max(part.expected_seconds for part in parts))
    rows = [_row(part, places) for part in parts]
    headers = ["part", "expected s", "interval", "measured s", "over"]
    lines = [f"{plain(runs[0].case)} beside what profile {plain(of.profile)} lets expect, {len(runs)} run(s):"]
    return "\n".join([*lines, table(headers, rows, numbers=range(1, 5)), *map(plain, of.basis)])


def _row(part: Part, places: int) -> list[str]:
    """One part's cells, seconds with so many decimals."""
    terms = "" if not part.terms or part.terms == (part.name,) else f" ({', '.join(part.terms)})"
    low, high, measured = (
        "-" if seconds is None else fixed(seconds, places)
        for seconds in (part.low_seconds, part.high_seconds, part.measured_seconds)
    )
    over = "-" if part.excess_seconds is None else f"{part.excess_seconds:+,.{places}f}"
    bounds = "-" if part.low_seconds is None else f"{low} to {high}"
    return [part.name + terms, fixed(part.expected_seconds, places), bounds, measured, over]

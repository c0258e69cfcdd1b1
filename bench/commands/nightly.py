"""Judge night after night against one baseline, at one error for all nights together."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Annotated

import typer

from bench.baselines.option import Baselines
from bench.commands.baseline import Records
from bench.judge.baseline import load_baselines
from bench.judge.groups import grouped
from bench.judge.nightly import ERROR, Watch, first_alarm, watch
from bench.judge.nights import Nights, nights_of
from bench.judge.remedy import ab_command, words_of
from bench.judge.words import title
from bench.records.files import read_records
from bench.records.jsonfile import discard
from bench.records.record import Record
from bench.records.terminal import plain
from grok1.cli import console
from grok1.cli.json_option import Json, write_json

app = console.App(help=__doc__)

_SHA_LETTERS = 12


@app.command(forgets=discard)
def check(
    records: Records,
    baselines: Baselines,
    case: Annotated[str | None, typer.Option(metavar="NAME", help="Only this case.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Leave out nights before this day (2025-01-31): an alarm that was answered."),
    ] = None,
    json_path: Json = None,
) -> None:
    """Say whether a case has become slower since its baseline. Ask as often as you like: one error covers all nights.

    An unchanged suite is ever failed with a chance of at most 1 %. Exit code: 0 no alarm, 1 an alarm, 2 the input was
    refused.
    """
    discard(json_path)
    stored, first = load_baselines(baselines), _day(since)
    found = [each for _, each in read_records(records) if case in (None, each.case) and each.created_at >= first]
    if not found:
        what = f"records{f' of {case}' if case else ''}{f' since {first}' if first else ''}"
        raise ValueError(f"no {what} in {', '.join(map(str, records))}: give the folder that every night writes to")
    cases = [nights_of(runs, stored) for runs in grouped(found)]
    error = ERROR / len(cases)
    told = [_told(each, error) for each in cases]
    write_json(json_path, {"schema": 1, "error": error, "cases": told})
    raise typer.Exit(int(any(each["is_alarm"] for each in told)))


@app.command()
def rates(
    trials: Annotated[int, typer.Option(help="Baselines drawn for each share.", min=10, max=100_000)] = 200,
    assumed_percent: Annotated[
        float, typer.Option(help="The level between sessions that the gate assumes.", min=0.01, max=50.0)
    ] = 1.2,
    json_path: Json = None,
) -> None:
    """Simulate how often an unchanged program is failed at least once in 30 and 60 nights. Takes minutes."""
    from bench.selftest import nightly

    found = nightly.rates(trials, assumed_percent=assumed_percent)
    print(nightly.rates_table(found))
    write_json(json_path, {"schema": 1, "trials": trials, "assumed_percent": assumed_percent, "rates": found})


def _day(since: str | None) -> str:
    try:
        return "" if since is None else date.fromisoformat(since).isoformat()
    except ValueError:
        raise ValueError(f"--since {plain(since)}: give a day such as 2025-01-31") from None


def _told(case: Nights, error: float) -> dict[str, object]:
    """Print what the nights say; the same as data."""
    series = case.series()
    alarm = first_alarm(series, error, case.baseline.floor_percent)
    name = plain(case.nights[0][0].case)
    last = alarm or watch(series)
    print(f"{name}: {_quiet(case, last, error) if alarm is None else _alarm(case, alarm, error)}")
    if case.left_out:
        print(f"  left out: {plain('; '.join(case.left_out), 2000)}")
    return {
        "case": case.nights[0][0].case,
        "is_alarm": alarm is not None,
        **asdict(last),
        "left_out": list(case.left_out),
        "baseline": case.baseline.label,
    }


def _quiet(case: Nights, last: Watch, error: float) -> str:
    return (
        f"night {last.night}: e-value {last.e_value:.3g}, no alarm below {1 / error:,.0f}: no lasting slowdown is "
        f"shown since the baseline of {case.number_of_sessions} sessions"
    )


def _alarm(case: Nights, alarm: Watch, error: float) -> str:
    """The night, the evidence, where the change lies, and what to do."""
    if alarm.since is None or alarm.figure is None:
        raise AssertionError("an alarm has a night")
    first = case.nights[alarm.since - 1][0]
    base = case.baseline.runs[-1].commit if alarm.since == 1 else case.nights[alarm.since - 2][-1].commit
    revision = "REV" if base.sha is None else base.sha[:_SHA_LETTERS]
    return (
        f"night {alarm.night}: e-value {alarm.e_value:,.3g}, alarm at {1 / error:,.0f}: {title(alarm.figure)} "
        f"{alarm.change_percent:.1f} % slower since about night {alarm.since} ({_commit(first)}, {first.created_at}).\n"
        f"  confirm: {plain(ab_command(revision, first.case, words_of(first)), 2000)}\n"
        "  if it is wanted, or the machine is another now: store a new baseline: "
        "python -m bench baseline record RECORDS\n"
        "  if it is mended: --since with the day after leaves the nights before out, at a new error of 1 %"
    )


def _commit(record: Record) -> str:
    sha = record.commit.sha
    return "commit unknown" if sha is None else f"commit {plain(sha[:_SHA_LETTERS])}{'+' * bool(record.commit.dirty)}"

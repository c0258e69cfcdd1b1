"""`python -m reports RECORDS... -o DIR`: judge stored records again and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.baselines.option import Baselines
from bench.history.session_level import session_level
from bench.history.store import FILE_NAME
from bench.judge.baseline import load_baselines
from bench.judge.groups import told_own
from bench.judge.junit import write_junit
from bench.judge.verdict import exit_code, verdict_lines
from bench.ledger.schema import read_ledger
from bench.records.expectation import read_expectations
from bench.records.files import files_at, is_kept, read_records, refuse_folders_within
from bench.records.jsonfile import discard
from bench.records.terminal import plain
from grok1.cli import console
from reports.case import assess
from reports.document import write_cases
from reports.names import OF_REPORT

app = console.App(is_kept)

Records = Annotated[
    list[Path] | None, typer.Argument(metavar="RECORDS...", help="Record files, or folders that hold them (*.json).")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the report and its plots.")]
RequireBaseline = Annotated[
    bool, typer.Option("--require-verdict", "--require-baseline", help="Fail a case without baseline, or inconclusive.")
]
StepSummary = Annotated[
    Path | None,
    typer.Option(
        envvar="GITHUB_STEP_SUMMARY", metavar="FILE", help="Also append the report, without plots, to this file."
    ),
]
Ledgers = Annotated[
    list[Path] | None,
    typer.Option("--ledger", metavar="FILE", help="A cost ledger to report after the records. Repeatable."),
]
JunitXml = Annotated[
    Path | None, typer.Option("--junitxml", metavar="FILE", help="Write the verdicts to this JUnit file.")
]
SessionSpread = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT|history|FILE",
        help="The level between sessions to assume where a baseline cannot say. history: from results/history.jsonl.",
    ),
]

Expected = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="What was expected of the runs, as `python -m bench expected RECORDS -o FILE` writes it."
    ),
]


@app.command(fills=console.into("output", OF_REPORT), forgets=discard)
def report(
    output: Output,
    baselines: Baselines,
    records: Records = None,
    require_baseline: RequireBaseline = False,
    step_summary: StepSummary = None,
    ledger: Ledgers = None,
    junitxml: JunitXml = None,
    session_spread: SessionSpread = None,
    expected: Expected = None,
    version: console.Version = False,
) -> None:
    """Write a report from benchmark records, judged against stored baselines: report.md, report.html, report.json.

    Example: python -m reports results/records -o results/report

    A cost ledger can be reported alone: python -m reports --ledger FILE -o DIR

    Exit code: 0 no case failed, 1 a case failed or is void, 2 bad input.
    """
    discard(junitxml)
    if not records:
        for name, is_given in (
            ("--require-verdict", require_baseline),
            ("--junitxml", junitxml is not None),
            ("--session-spread", session_spread is not None),
            ("--expected", expected is not None),
        ):
            if is_given:
                raise ValueError(f"{name} is about records, and none is given; name RECORDS, or leave it out")
    loaded = [record for _, record in read_records(_files(records or []))]
    stored = load_baselines(baselines) if loaded else []
    ledgers = [read_ledger(path) for path in ledger or ()]
    level = session_level(session_spread, Path("results") / FILE_NAME, [record.id for record in loaded])
    told = read_expectations(expected) if expected is not None else []
    cases = assess(loaded, stored, session_percent=level.level, expectations=told)
    path = write_cases(cases, output, step_summary=step_summary, ledgers=ledgers)
    verdicts = [case.verdict for case in cases]
    if junitxml is not None:
        write_junit(junitxml, verdicts, require_baseline)
    if own := told_own(loaded, ([run.record for run in case.runs] for case in cases), stored):
        typer.echo(f"note: {own}", err=True)
    for line in verdict_lines(verdicts, require_baseline):
        typer.echo(plain(line, 2000))
    typer.echo(f"report: {plain(path, 5000)}")
    raise typer.Exit(max((exit_code(verdict, require_baseline) for verdict in verdicts), default=0))


def _files(given: list[Path]) -> list[Path]:
    """The record files named, and those inside the folders named."""
    files: list[Path] = []
    refuse_folders_within(given)
    for path in given:
        inside = files_at(path)
        if not inside:
            raise ValueError(f"{path}: holds no *.json records; run the benchmark first")
        files += inside
    return files


def main() -> NoReturn:
    """Entry point."""
    console.run(app, "reports")


if __name__ == "__main__":
    main()

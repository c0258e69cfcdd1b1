"""`python -m reports RECORDS... -o DIR`: judge stored records again and write the report."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.baselines.option import Baselines
from bench.history.session_level import session_level
from bench.history.store import FILE_NAME
from bench.judge.baseline import load_baselines
from bench.judge.junit import write_junit
from bench.judge.verdict import exit_code
from bench.ledger.schema import read_ledger
from bench.records.expectation import read_expectations
from bench.records.files import each_record, files_at
from bench.records.terminal import plain
from reports.case import assess
from reports.document import write_cases

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

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
    typer.Option(metavar="FILE", help="What was expected of the runs, as `python -m bench expected` writes it."),
]


@app.command()
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
) -> None:
    """Write a report from benchmark records, judged against stored baselines: report.md, report.html, report.json.

    Example: python -m reports results/records -o results/report

    A cost ledger can be reported alone: python -m reports --ledger FILE -o DIR

    Exit code: 0 no case failed, 1 a case failed or is void, 2 bad input.
    """
    try:
        loaded = list(each_record(_files(records or [])))
        stored = load_baselines(baselines) if loaded else []
        ledgers = [read_ledger(path) for path in ledger or ()]
        level = session_level(session_spread, Path("results") / FILE_NAME, [record.id for record in loaded])
        told = read_expectations(expected) if expected is not None else []
        cases = assess(loaded, stored, session_percent=level.level, expectations=told)
        path = write_cases(cases, output, step_summary=step_summary, ledgers=ledgers)
        verdicts = [case.verdict for case in cases]
        if junitxml is not None:
            write_junit(junitxml, verdicts, require_baseline)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {plain(error, 5000)}", err=True)
        raise typer.Exit(2) from None
    for verdict in verdicts:
        typer.echo(plain(verdict.sentence, 2000))
    typer.echo(f"report: {plain(path, 5000)}")
    raise typer.Exit(max((exit_code(verdict, require_baseline) for verdict in verdicts), default=0))


def _files(given: list[Path]) -> list[Path]:
    """The record files named, and those inside the folders named."""
    files: list[Path] = []
    for path in given:
        inside = files_at(path)
        if not inside:
            raise ValueError(f"{path}: holds no *.json records; run the benchmark first")
        files += inside
    return files


def main() -> NoReturn:
    """Entry point. Typer's own complaints hold words of the command line, which may be names of strangers' files."""
    try:
        sys.exit(app(prog_name="python -m reports", standalone_mode=False) or 0)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        words = io.StringIO()
        show(words)
        print("\n".join(plain(line, 2000) for line in words.getvalue().splitlines()), file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()

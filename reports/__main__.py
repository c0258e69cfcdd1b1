"""`python -m reports RECORDS... -o DIR`: judge stored records again and write the report."""

from __future__ import annotations

import importlib.metadata
import io
import platform
import signal
import sys
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
from bench.records.files import files_at, read_records, refuse_folders_within
from bench.records.jsonfile import discard
from bench.records.terminal import plain
from reports.case import assess
from reports.document import write_cases

_INTERRUPTED = 128 + signal.SIGINT  # as shells have it, and Typer too

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Records = Annotated[
    list[Path] | None, typer.Argument(metavar="RECORDS", help="Record files, or folders that hold them (*.json).")
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


def _show_version(wanted: bool) -> None:
    """As `grok1 --version` says; torch and megatron are asked of, not imported."""
    if wanted:
        found = (f"{package} {_version_of(package)}" for package in ("grok1-bench", "torch", "megatron-core"))
        typer.echo(", ".join([*found, f"Python {platform.python_version()}"]))
        raise typer.Exit


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
]


@app.command(options_metavar="--output DIR [OPTIONS]")  # what must be given is part of the usage line
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
    version: Version = False,
) -> None:
    """Write a report from benchmark records, judged against stored baselines: report.md, report.html, report.json.

    Example: python -m reports results/records -o results/report

    A cost ledger can be reported alone: python -m reports --ledger FILE -o DIR

    Exit code: 0 no case failed, 1 a case failed or is void, 2 bad input.
    """
    try:
        discard(junitxml)
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
    except (ValueError, OSError) as error:
        typer.echo(f"error: {plain(error, 5000)}", err=True)
        raise typer.Exit(2) from None
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
    """Entry point. Typer's own complaints hold words of the command line, which may be names of strangers' files."""
    try:
        code = app(prog_name="python -m reports", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        words = io.StringIO()
        show(words)
        print("\n".join(plain(line, 2000) for line in words.getvalue().splitlines()), file=sys.stderr)
        code = getattr(error, "exit_code", 2)
    if code == _INTERRUPTED:
        print("reports: interrupted", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""`python -m bench gate`: stored records against stored baselines, for a pipeline. Needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.ab.settle_stored import settle_stored
from bench.baselines.option import Baselines
from bench.commands.baseline import Records
from bench.commands.session_spread import HISTORY, SessionSpread
from bench.history.session_level import session_level
from bench.judge.baseline import load_baselines
from bench.judge.beside import with_expectations
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR
from bench.judge.gate import judge_suite, missing
from bench.judge.groups import grouped, told_own
from bench.judge.junit import as_junit
from bench.judge.rule import WORST_FIRST
from bench.judge.verdict import Row, Verdict, exit_code, verdict_lines
from bench.judge.words import change, figure, interval_of, stored, title
from bench.records.expectation import Expectation, read_expectations
from bench.records.files import read_records
from bench.records.jsonfile import discard, write_atomically
from bench.records.terminal import plain, table
from grok1.cli.json_option import Json

Required = Annotated[
    bool,
    typer.Option(
        "--require-verdict", "--require-baseline", help="Fail a case that has no answer: no baseline, or inconclusive."
    ),
]
Expected = Annotated[
    list[str] | None,
    typer.Option(
        "--expect",
        metavar="CASE",
        help="Fail if this case has no run; repeatable. Default: all cases with a baseline for the devices that ran.",
    ),
]
Settle = Annotated[
    bool,
    typer.Option(
        "--settle",
        help="Where only the level of another session could explain a change, run the baseline's commit beside the "
        "working tree and decide by that. The records must be of this machine and of the commit checked out.",
    ),
]
Expectations = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What was expected of the runs, as `python -m bench expected RECORDS -o FILE` writes it; verdicts use it.",
    ),
]
Junit = Annotated[
    Path | None, typer.Option("--junitxml", metavar="FILE", help="Write the verdicts to this JUnit file.")
]


def gate(
    records: Records,
    baselines: Baselines,
    require_baseline: Required = False,
    expect: Expected = None,
    settle: Settle = False,
    session_spread: SessionSpread = None,
    json_path: Json = None,
    junitxml: Junit = None,
    expected: Expectations = None,
) -> None:
    """Judge stored records against stored baselines.

    Exit code: 0 passed, 1 a case failed, is void or missing, or there are no records; 2 the input was refused.
    """
    discard(json_path, junitxml)
    told = read_expectations(expected) if expected is not None else []
    verdicts = _judged(records, baselines, expect, settle, session_spread, told)
    code = max(exit_code(verdict, require_baseline) for verdict in verdicts)
    if json_path is not None:
        write_atomically(json_path, _json(verdicts, code))
    if junitxml is not None:
        write_atomically(junitxml, as_junit(verdicts, require_baseline))
    for line in verdict_lines(verdicts, require_baseline):
        print(plain(line, 2000))
    if any(verdict.rows for verdict in verdicts):
        print(f"\n{_table(verdicts)}")
    raise typer.Exit(code)


def _judged(
    paths: Sequence[Path],
    folder: Path,
    expected: list[str] | None,
    may_settle: bool,
    session_spread: str | None,
    expectations: Sequence[Expectation],
) -> list[Verdict]:
    """All verdicts, the worst first."""
    stored = load_baselines(folder)
    records = [record for _, record in read_records(paths)]
    groups = grouped(records, stored)
    level = session_level(session_spread, HISTORY, [each.id for each in records])
    for line in filter(None, (told_own(records, groups, stored), *(level.told(group[0]) for group in groups))):
        print(f"note: {plain(line, 1000)}", file=sys.stderr)
    try:
        verdicts = judge_suite(groups, stored, FIRST_STAGE_ERROR if may_settle else FAMILY_ERROR, level.level)
    except OverflowError:
        raise ValueError("step times differ by more than a number can hold: these are not times of one job") from None
    if may_settle:
        verdicts = settle_stored(groups, verdicts, stored)
    verdicts = with_expectations(verdicts, groups, expectations)
    verdicts += missing(records, stored, expected or None)
    if not records:
        where = ", ".join(str(path) for path in paths)
        verdicts.append(
            Verdict(
                "missing", "all cases", f"MISSING: no records in {where}: nothing ran, or the results are elsewhere"
            )
        )
    return sorted(verdicts, key=lambda verdict: WORST_FIRST.index(verdict.state))


def _table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        (
            verdict.name,
            title(row.metric),
            figure(row.metric, row.measured),
            stored(row.metric, row.baseline),
            change(row.metric, row.change_percent),
            _limit(row),
            row.state,
            row.label,
        )
        for verdict in verdicts
        for row in verdict.rows
    ]
    headers = ["case", "metric", "measured", "baseline", "change", "interval or limit", "state", "of"]
    return table(headers, rows, numbers=(2, 3, 4, 5))


def _limit(row: Row) -> str:
    """The interval of the change against a baseline with its own runs; else the limit."""
    if (found := interval_of(row)) is not None:
        return found
    return "-" if row.limit_percent is None else f"limit {row.limit_percent:+.2f}"


def _json(verdicts: Sequence[Verdict], code: int) -> bytes:
    content = {
        "schema": 1,
        "exit_code": code,
        "family_error": FAMILY_ERROR,
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

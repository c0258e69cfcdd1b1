"""The report: a verdict first, then each case with its comparisons, figures and plots, and where they come from."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.judge.baseline import Baseline
from bench.judge.verdict import Verdict
from bench.ledger.schema import Ledger
from bench.records.expectation import Expectation
from bench.records.files import refuse_folders_in_place
from bench.records.jsonfile import append_whole, cannot_write, write_atomically
from bench.records.record import Record
from reports import names
from reports.body import MAX_CASES_WITH_PLOTS, body, plot_name
from reports.case import CaseResult, assess
from reports.comment import comment
from reports.data import as_json
from reports.ledger import section_of
from reports.page import page
from reports.picture import NARROW, WIDE
from reports.pictures.distribution import distribution
from reports.pictures.expert_load import expert_load
from reports.pictures.phases import phases
from reports.pictures.ranks import ranks
from reports.pictures.schedule import schedule
from reports.pictures.standing import standing
from reports.pictures.step_times import step_times

# GitHub drops a step summary of more than 1 MiB.
_MAX_STEP_SUMMARY_BYTES = 1_000_000


def write_report(
    records: Sequence[Record],
    baselines: Sequence[Baseline],
    output: Path,
    *,
    step_summary: Path | None = None,
    ledgers: Sequence[Ledger] = (),
    missing: Sequence[Verdict] = (),
    verdicts: Sequence[Verdict] | None = None,
    expectations: Sequence[Expectation] = (),
) -> Path:
    """Judge the records and write their report; returns the path of its Markdown. `verdicts` as in `assess`."""
    cases = assess(records, baselines, missing, verdicts, expectations=expectations)
    return write_cases(cases, output, step_summary=step_summary, ledgers=ledgers)


def write_cases(
    cases: Sequence[CaseResult], output: Path, *, step_summary: Path | None = None, ledgers: Sequence[Ledger] = ()
) -> Path:
    """Write `report.md`, `report.html`, `report.json` and the plots into `output`; returns the first one's path.
    They appear there together, or not at all. Where there are cases, so does `comment.md`, for a pull request.

    The plots are written before the text that shows them. `step_summary` names a file that the report is appended to
    without its plots, as GitHub's job summaries take no files. Cost ledgers follow the cases.
    """
    if not cases and not ledgers:
        raise ValueError("nothing to report on: no record and no ledger")
    with _staged(output) as folder, tempfile.TemporaryDirectory(dir=folder) as narrow, _collecting_only_what_is_new():
        places = ((folder, WIDE), (Path(narrow), NARROW))
        shown = []
        for index, case in enumerate(cases):
            pictures = {}
            for place, width in places:
                pictures = _pictures(case, width) if index < MAX_CASES_WITH_PLOTS else {}
                for name, picture in pictures.items():
                    write_atomically(place / plot_name(index, name), picture)
            shown.append(tuple(pictures))
        markdown = body(cases, shown, _ledgers(ledgers, places), ledgers)
        title = markdown.splitlines()[0].lstrip("# ")
        state = cases[0].verdict.state if cases else "none"
        if cases:
            write_atomically(folder / names.COMMENT, comment(cases).encode())
        write_atomically(folder / "report.json", as_json(cases))
        write_atomically(folder / "report.html", page(markdown, folder, title, state, Path(narrow)).encode())
        write_atomically(folder / names.REPORT, markdown.encode())
    if step_summary is not None:
        _append_summary(step_summary, body(cases, None, _ledgers(ledgers, ()), ledgers))
    return output / names.REPORT


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder whose files go into `output` together when the block ends, the report last; after an error none do."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".report.") as folder:
            try:
                yield Path(folder)
            except ValueError as error:  # names a file that nobody will find
                raise ValueError(str(error).replace(folder, str(output))) from None
            refuse_folders_in_place(output, (path.name for path in Path(folder).iterdir()))
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == names.REPORT):
                path.replace(output / path.name)
    except OSError as error:
        raise ValueError(f"{output}: cannot be written: {error.strerror or error}; choose another folder") from None


@contextmanager
def _collecting_only_what_is_new() -> Iterator[None]:
    """Pictures leave much garbage. Python's search for it need not go through all records each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _ledgers(ledgers: Sequence[Ledger], places: Sequence[tuple[Path, float]]) -> list[str]:
    return [part for index, ledger in enumerate(ledgers) for part in section_of(ledger, places, index)]


def _pictures(case: CaseResult, width: float) -> dict[str, bytes]:
    run = case.median_run
    if run is None:
        return {}
    record, summary = run.record, run.summary
    ours = [each.summary.step_seconds[each.summary.steady_from :] for each in case.measured]
    theirs = [each.steady_step_seconds for each in case.stored.runs] if case.stored is not None else []
    pictures = {
        "standing": standing(case, width),
        "steps": step_times(record, summary, width),
        "distribution": distribution(ours, theirs, width),
        "ranks": ranks(record, summary, width) if len(record.ranks) > 1 else None,
        "schedule": None if record.lone_rank else schedule(record, summary, width),
        "phases": phases(summary, width) if summary.phase_seconds else None,
        "experts": expert_load(record, width) if record.expert_load else None,
    }
    return {name: picture for name, picture in pictures.items() if picture is not None}


def _append_summary(path: Path, report: str) -> None:
    content = report.encode()
    if len(content) > _MAX_STEP_SUMMARY_BYTES:
        content = report.splitlines()[0].encode() + b"\n\nThe report is too long for a step summary: see report.md.\n"
    try:
        append_whole(path, content)
    except OSError as error:
        raise cannot_write(path, error, len(content)) from None

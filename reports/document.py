"""The report: a verdict first, then each case with its comparisons, figures and plots, and where they come from."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.judge.alone import alone
from bench.judge.baseline import Baseline
from bench.judge.beside import beside
from bench.judge.rule import WORST_FIRST
from bench.judge.verdict import Verdict
from bench.ledger.schema import Ledger
from bench.records.expectation import Expectation
from bench.records.jsonfile import append_whole, cannot_write, write_atomically
from bench.records.record import Record
from reports.case import CaseResult, Measured, assess
from reports.data import as_json
from reports.formats import more
from reports.ledger import section_of
from reports.markdown import details, text
from reports.page import page
from reports.pictures.distribution import distribution
from reports.pictures.expert_load import expert_load
from reports.pictures.phases import phases
from reports.pictures.ranks import ranks
from reports.pictures.schedule import schedule
from reports.pictures.step_times import step_times
from reports.tables import comparison, learning, step_split
from reports.tables.expected import expected, told_job
from reports.tables.figures import figures
from reports.tables.overview import overview, verdict_word
from reports.tables.provenance import provenance, resolved_recipe
from reports.tables.runs import runs

REPORT_NAME = "report.md"
_MAX_CASES_WITH_PLOTS = 12
_MAX_SENTENCES = 12
_MAX_REASONS = 20
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
    They appear there together, or not at all.

    The plots are written before the text that shows them. `step_summary` names a file that the report is appended to
    without its plots, as GitHub's job summaries take no files. Cost ledgers follow the cases.
    """
    if not cases and not ledgers:
        raise ValueError("nothing to report on: no record and no ledger")
    with _staged(output) as folder, _collecting_only_what_is_new():
        shown = []
        for index, case in enumerate(cases):
            pictures = _pictures(case) if index < _MAX_CASES_WITH_PLOTS else {}
            for name, picture in pictures.items():
                write_atomically(folder / _plot_name(index, name), picture)
            shown.append(tuple(pictures))
        markdown = _render(cases, shown, _ledgers(ledgers, folder), ledgers)
        title = markdown.splitlines()[0].lstrip("# ")
        state = cases[0].verdict.state if cases else "none"
        write_atomically(folder / "report.json", as_json(cases))
        write_atomically(folder / "report.html", page(markdown, folder, title, state).encode())
        write_atomically(folder / REPORT_NAME, markdown.encode())
    if step_summary is not None:
        _append_summary(step_summary, _render(cases, None, _ledgers(ledgers, None), ledgers))
    return output / REPORT_NAME


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
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == REPORT_NAME):
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


def _render(
    cases: Sequence[CaseResult],
    shown: Sequence[Sequence[str]] | None,
    ledger_parts: Sequence[str],
    ledgers: Sequence[Ledger],
) -> str:
    """The whole report as Markdown, with the plots `shown` of each case (None: without any) and `ledger_parts` last."""
    parts = [_headline(cases, ledgers)]
    unsettled = [case.verdict.sentence for case in cases if case.verdict.state != "pass"]
    if len(cases) > 1 and unsettled:
        listed = "\n".join(f"- {text(sentence)}" for sentence in unsettled[:_MAX_SENTENCES])
        parts.append(listed + more(len(unsettled), _MAX_SENTENCES))
    if cases:
        changes = [comparison.change_of_speed(case.verdict) for case in cases]
        parts += [overview(cases, changes), _LEGEND]
    if shown is not None and len(cases) > _MAX_CASES_WITH_PLOTS:
        parts.append(f"Only the first {_MAX_CASES_WITH_PLOTS} cases have plots: report on fewer to see the others'.")
    for index, case in enumerate(cases):
        parts += _section(index, case, [] if shown is None else shown[index], is_only=len(cases) == 1)
    return "\n\n".join([*parts, *ledger_parts]) + "\n"


_LEGEND = (
    "tokens/s/p: tokens per second per processor. A step takes as long as its slowest rank; figures are "
    "medians over the steady steps, after the warm-up, and of the median run of a case. CV: standard deviation over "
    "mean. MFU: model FLOP/s over the processor's stated peak. Change: of tokens/s/p against the baseline."
)


def _headline(cases: Sequence[CaseResult], ledgers: Sequence[Ledger]) -> str:
    if not cases:
        return f"# Cost of a step: {', '.join(text(ledger.recipe_name) for ledger in ledgers)}; no run was judged"
    if len(cases) == 1:
        return f"# {text(cases[0].verdict.sentence)}"
    states = [case.verdict.state for case in cases]
    counts = [f"{states.count(state)} {state.replace('_', ' ')}" for state in WORST_FIRST if state in states]
    return f"# {verdict_word(cases[0].verdict)}: {len(cases)} cases, {', '.join(counts)}"


def _section(index: int, case: CaseResult, shown: Sequence[str], *, is_only: bool) -> list[str]:
    verdict = case.verdict
    parts = [f'<a id="case-{index + 1}"></a>', f"## {text(verdict.case)}: {verdict_word(verdict)}"]
    parts += [] if is_only else [text(verdict.sentence)]
    if not case.runs:
        return parts
    parts += [_alone(case.runs[0].record)] if case.runs[0].record.lone_rank else []
    reasons = [(run.record.id[:8], reason) for run in case.runs for reason in run.record.void_reasons]
    if reasons:
        listed = "\n".join(f"- void: {text(reason)} (run {run})" for run, reason in reasons[:_MAX_REASONS])
        parts.append(listed + more(len(reasons), _MAX_REASONS))
    if verdict.rows or verdict.refusals or verdict.state == "no_baseline":
        parts += ["### Against the baselines", comparison.against_baselines(case)]
    if verdict.attribution is not None:
        parts += ["### What moved", comparison.attribution(verdict.attribution)]
    if verdict.findings:
        parts += ["### What a median cannot see", comparison.findings(verdict.findings)]
    return [*parts, *_measured(index, case, shown)]


def _measured(index: int, case: CaseResult, shown: Sequence[str]) -> list[str]:
    run = case.median_run
    record = case.runs[0].record if run is None else run.record
    parts = []
    if run is not None:
        parts += ["### Figures", figures(case)]
    if run is not None and case.expectation is not None:
        parts += ["### Measured beside expected", *expected(beside(record, run.summary, case.expectation))]
        parts += [told_job(found, record, case.expectation)] if (found := alone(record, run.summary)) else []
    parts += ["### Runs", runs(case)]
    if run is not None:
        if len(case.runs) > 1:
            parts.append(f"What follows is of the median run, {record.id[:8]}.")
        parts += _split(index, run, shown)
    return [
        *parts,
        details("Provenance: recipe, layout, device, software, environment", provenance(record)),
        details("The whole recipe", resolved_recipe(record)),
    ]


def _alone(record: Record) -> str:
    """What a reader must know first of a run of one rank without the others."""
    rank, ranks = record.ranks[0].rank, record.layout.world_size
    return (
        f"**One rank of {ranks}, alone: communication predicted, not measured.** Rank {rank} ran its own work of the "
        "whole job's step; nothing was sent and nobody was waited for. The job is slower: its rates are at most these."
    )


def _split(index: int, run: Measured, shown: Sequence[str]) -> list[str]:
    """Where the time, the memory and the tokens of one run went."""
    record, summary = run.record, run.summary
    parts = [_image(index, name) for name in ("steps", "distribution", "ranks") if name in shown]
    if summary.phase_seconds:
        parts += ["### Where the time goes"]
        parts += [_image(index, name) for name in ("schedule", "phases") if name in shown]
        parts += [step_split.time_split(record, summary)]
    if summary.module_seconds:
        parts += [details("Modules of a profiled step", "\n\n".join((_MODULES, step_split.modules(summary))))]
    if summary.collective_seconds:
        parts += ["### Collectives", *step_split.collectives(record, summary)]
    if record.expert_load:
        parts += ["### Expert load"]
        parts += [_image(index, "experts")] if "experts" in shown else []
        parts += [details("Tokens of each layer's experts", learning.expert_load(record, summary))]
    return [*parts] if record.lone_rank else [*parts, details("Loss of the steps", learning.losses(record))]


_MODULES = (
    "One step after the measured ones, on the first rank of each stage; profiling makes it longer. A module's own "
    "operators, forward and backward, without those of modules inside it; waiting for other ranks is in it."
)


def _ledgers(ledgers: Sequence[Ledger], folder: Path | None) -> list[str]:
    return [part for index, ledger in enumerate(ledgers) for part in section_of(ledger, folder, index)]


def _pictures(case: CaseResult) -> dict[str, bytes]:
    run = case.median_run
    if run is None:
        return {}
    record, summary = run.record, run.summary
    ours = [each.summary.step_seconds[each.summary.steady_from :] for each in case.measured]
    theirs = [each.steady_step_seconds for each in case.stored.runs] if case.stored is not None else []
    pictures = {
        "steps": step_times(record, summary),
        "distribution": distribution(ours, theirs),
        "ranks": ranks(record, summary) if len(record.ranks) > 1 else None,
        "schedule": None if record.lone_rank else schedule(record, summary),
        "phases": phases(summary) if summary.phase_seconds else None,
        "experts": expert_load(record) if record.expert_load else None,
    }
    return {name: picture for name, picture in pictures.items() if picture is not None}


_CAPTIONS = {
    "steps": "Time of each step",
    "distribution": "Distribution of the steady steps",
    "ranks": "Each rank's step and memory",
    "schedule": "The pipeline's schedule as it ran",
    "phases": "Phases of a step",
    "experts": "Expert load by layer",
}


def _image(index: int, name: str) -> str:
    return f"![{_CAPTIONS[name]}]({_plot_name(index, name)})"


def _plot_name(index: int, name: str) -> str:
    """Plain numbers, as a record's own words have no place in a path."""
    return f"plot-{index + 1}-{name}.svg"


def _append_summary(path: Path, report: str) -> None:
    content = report.encode()
    if len(content) > _MAX_STEP_SUMMARY_BYTES:
        content = report.splitlines()[0].encode() + b"\n\nThe report is too long for a step summary: see report.md.\n"
    try:
        append_whole(path, content)
    except OSError as error:
        raise cannot_write(path, error, len(content)) from None

"""The text of a report, as Markdown: one screen with the verdict, then each case with all that it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.alone import alone
from bench.judge.beside import beside
from bench.ledger.schema import Ledger
from bench.records.record import Record
from reports.case import CaseResult, Measured
from reports.formats import more
from reports.headline import headline
from reports.markdown import SENTENCE, anchored, command, contents, details, state_words, text
from reports.next_step import next_step
from reports.tables import comparison, learning, step_split
from reports.tables.expected import expected, told_job
from reports.tables.figures import figures
from reports.tables.glance import glance
from reports.tables.overview import overview, processors
from reports.tables.provenance import provenance, resolved_recipe
from reports.tables.runs import runs
from reports.tables.side_by_side import in_short, side_by_side
from reports.tables.sides import are_several

MAX_CASES_WITH_PLOTS = 12
_MAX_SENTENCES = 12
_MAX_REASONS = 20
_FEW_ROWS = 10  # that need no folding

Parts = list[str]
Section = tuple[str, str, Parts]  # the end of its anchor, its title, its parts


def body(
    cases: Sequence[CaseResult],
    shown: Sequence[Sequence[str]] | None,
    ledger_parts: Sequence[str],
    ledgers: Sequence[Ledger],
) -> str:
    """The whole report, with the plots `shown` of each case (None: without any) and `ledger_parts` last."""
    if not cases:
        names = ", ".join(text(ledger.recipe_name) for ledger in ledgers)
        return "\n\n".join([f"# Cost of a step: {names}; no run was judged", *ledger_parts]) + "\n"
    parts = [f"# {text(headline(cases))}"]
    parts += _one(cases[0], [] if shown is None else shown[0]) if len(cases) == 1 else _several(cases)
    parts += side_by_side(cases)
    if shown is not None and len(cases) > MAX_CASES_WITH_PLOTS:
        parts.append(f"Only the first {MAX_CASES_WITH_PLOTS} cases have plots: report on fewer to see the others'.")
    for index, case in enumerate(cases):
        parts += _case(index, case, [] if shown is None else shown[index], is_only=len(cases) == 1)
    return "\n\n".join([*parts, *ledger_parts]) + "\n"


def image(index: int, name: str) -> str:
    """A plot of a case; the file has plain numbers in its name, as a record's own words have no place in a path."""
    return f"![{_CAPTIONS[name]}]({plot_name(index, name)})"


def plot_name(index: int, name: str) -> str:
    """The file of a plot, beside the report."""
    return f"plot-{index + 1}-{name}.svg"


_CAPTIONS = {
    "standing": "tokens/s/p and s/step beside the baseline",
    "steps": "Time of each step",
    "distribution": "Distribution of the steady steps",
    "ranks": "Each rank's step and memory",
    "schedule": "The pipeline's schedule as it ran",
    "phases": "Phases of a step",
    "experts": "Expert load by layer",
}
_LEGEND = (
    "tokens/s/p: tokens per second per processor. A step takes as long as its slowest rank; a run's figures are of its "
    "steady steps, after the warm-up, and a case's are the medians over its runs that count. CV: standard deviation "
    "over mean. MFU: model FLOP/s over the processor's stated peak."
)


def _one(case: CaseResult, shown: Sequence[str]) -> Parts:
    """The first screen of a report on one case."""
    parts = [_alone(case.runs[0].record)] if case.runs and case.runs[0].record.lone_rank else []
    return [*parts, *_to_do(case), *_standing(0, case, shown), *_facts(case), _LEGEND]


def _facts(case: CaseResult) -> Parts:
    """On what, and how often."""
    if not case.runs:
        return []
    record, runs = case.runs[0].record, len(case.runs)
    if are_several(case.measured):
        if case.verdict.state == "void":
            return [text(case.verdict.sentence, SENTENCE)]
        return [f"{runs} runs that do not come from one program, recipe and machine: what differs follows."]
    when = f"{record.created_at[:10]}, commit {(record.commit.sha or 'unknown')[:12]}"
    told = f"{processors(record)}; {runs} run{'s' * (runs > 1)} of {len(record.steps):,} steps; {when}."
    return [text(told)]


def _several(cases: Sequence[CaseResult]) -> Parts:
    """The first screen of a report on several cases."""
    unsettled = [case.verdict.sentence for case in cases if case.verdict.state != "pass"]
    listed = "\n".join(f"- {text(sentence, SENTENCE)}" for sentence in unsettled[:_MAX_SENTENCES])
    parts = [listed + more(len(unsettled), _MAX_SENTENCES)] if unsettled else []
    return [*parts, *_to_do(cases[0]), overview(cases), _LEGEND]


def _standing(index: int, case: CaseResult, shown: Sequence[str]) -> Parts:
    if case.verdict.state in ("no_baseline", "void") and in_short(case) is not None:
        return []  # a median over runs of several programs is of none: they stand side by side
    table = glance(case)
    return [*([table] if table else []), *([image(index, "standing")] if "standing" in shown else [])]


def _to_do(case: CaseResult) -> Parts:
    step = next_step(case)
    if step is None:
        return []
    words, line = step
    return [f"**Next.** {words}", command(line)] if line else [f"**Next.** {words.rstrip(':')}."]


def _case(index: int, case: CaseResult, shown: Sequence[str], *, is_only: bool) -> Parts:
    verdict, anchor = case.verdict, f"case-{index + 1}"
    sections = _sections(index, case, shown)
    heading = f"## {text(verdict.name)}: {state_words(verdict.state).upper()}"
    parts = [anchored(anchor, heading), text(verdict.sentence, SENTENCE)]
    if sections:
        parts.append(contents((f"{anchor}-{end}", title) for end, title, _ in sections))
    if not is_only and case.runs:
        parts += [_alone(case.runs[0].record)] if case.runs[0].record.lone_rank else []
        parts += [*(_to_do(case) if index else []), *_standing(index, case, shown)]
    reasons = [(run.record.id[:8], reason) for run in case.runs for reason in run.record.void_reasons]
    if reasons:
        listed = "\n".join(f"- void: {text(reason)} (run {run})" for run, reason in reasons[:_MAX_REASONS])
        parts.append(listed + more(len(reasons), _MAX_REASONS))
    for end, title, within in sections:
        parts += [anchored(f"{anchor}-{end}", f"### {title}"), *within]
    return parts


def _sections(index: int, case: CaseResult, shown: Sequence[str]) -> list[Section]:
    """What there is to tell of a case; a case without runs has nothing."""
    if not case.runs:
        return []
    verdict, run = case.verdict, case.median_run
    record = case.runs[0].record if run is None else run.record
    found: list[Section] = [
        ("figures", "Figures", [figures(case)] if run else []),
        ("baselines", "Against the baselines", _baselines(case)),
        ("moved", "What moved", [comparison.attribution(verdict.attribution)] if verdict.attribution else []),
        ("findings", "What a median cannot see", [comparison.findings(verdict.findings)] if verdict.findings else []),
        ("expected", "Measured beside expected", _expected(case, run)),
        ("runs", "Runs", [runs(case)]),
        *([] if run is None else _of_median_run(index, case, run, shown)),
        ("source", "Where it comes from", _source(record)),
    ]
    return [section for section in found if section[2]]


def _baselines(case: CaseResult) -> Parts:
    verdict = case.verdict
    has_some = verdict.rows or verdict.refusals or verdict.state == "no_baseline"
    return [comparison.against_baselines(case)] if has_some else []


def _expected(case: CaseResult, run: Measured | None) -> Parts:
    if run is None or case.expectation is None:
        return []
    parts = expected(beside(run.record, run.summary, case.expectation))
    found = alone(run.record, run.summary)
    return [*parts, told_job(found, run.record, case.expectation)] if found else parts


def _of_median_run(index: int, case: CaseResult, run: Measured, shown: Sequence[str]) -> list[Section]:
    """Where the time, the memory and the tokens of one run went."""
    record, summary = run.record, run.summary

    def images(*names: str) -> Parts:
        return [image(index, name) for name in names if name in shown]

    which = _which(case, record)
    modules = details("Modules of a profiled step", "\n\n".join((_MODULES, step_split.modules(summary))))
    time = [
        *images("schedule", "phases"),
        *([step_split.time_split(record, summary)] if summary.phase_seconds else []),
        *([modules] if summary.module_seconds else []),
    ]
    moved = list(step_split.collectives(record, summary)) if summary.collective_seconds else []
    tokens = details("Tokens of each layer's experts", learning.expert_load(record, summary))
    losses = [] if record.lone_rank else [_folded("Loss of each step", learning.losses(record), len(record.steps))]
    return [
        ("steps", "Steps and ranks", [*which, *images("steps", "distribution", "ranks")]),
        ("time", "Where the time goes", time),
        ("collectives", "Collectives", moved),
        ("experts", "Expert load", [*images("experts"), tokens] if record.expert_load else []),
        ("losses", "Loss", losses),
    ]


def _which(case: CaseResult, record: Record) -> Parts:
    """Which of several runs is looked at; of an even number the median is between two."""
    if len(case.runs) == 1:
        return []
    told = "" if len(case.measured) % 2 else ", the faster of the middle two"
    return [f"This and what follows is of the median run, {record.id[:8]}{told}."]


_MODULES = (
    "One step after the measured ones, on the first rank of each stage; profiling makes it longer. A module's own "
    "operators, forward and backward, without those of modules inside it; waiting for other ranks is in it."
)


def _folded(summary: str, table: str, rows: int) -> str:
    return table if rows <= _FEW_ROWS else details(f"{summary}: {rows:,} rows", table)


def _source(record: Record) -> Parts:
    return [
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

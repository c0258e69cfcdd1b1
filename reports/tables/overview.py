"""One row a case: the figures a reader came for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.judge.case_figures import over_runs, step_seconds, tokens_rate
from bench.judge.rule import WORST_FIRST
from bench.judge.stats import Summary
from bench.judge.verdict import Verdict
from bench.records.record import Record
from reports.case import CaseResult
from reports.formats import gibibytes, number, percent
from reports.markdown import Markup, table, text


def overview(cases: Sequence[CaseResult], changes: Sequence[str]) -> str:
    """One row a case: the figures a reader came for, with a link to the rest; `changes` of speed are given."""
    headers = ["verdict", "case", "processors", "runs", "tokens/s/p", "change", "s/step", "p5 to p95", "CV"]
    headers += ["TFLOP/s/p", "MFU", "peak GiB", "loss"]
    rows = [
        [
            verdict_word(case.verdict),
            Markup(f"[{text(case.verdict.case)}](#case-{index + 1})"),
            *_overview(case, change),
        ]
        for index, (case, change) in enumerate(zip(cases, changes, strict=True))
    ]
    return table(headers, rows, numbers=range(3, 12))


def _overview(case: CaseResult, change: str) -> list[str]:
    runs = [run.summary for run in case.measured]
    if not runs:
        return ["–", str(len(case.runs)), *["–"] * 9]

    def middle(get: Callable[[Summary], float | None], shown: Callable[[float], str]) -> str:
        found = over_runs(runs, get)
        return "–" if found is None else shown(found)

    def seconds(each: float) -> str:
        return f"{each:.4g}"

    record = case.measured[0].record
    first, last = over_runs(runs, lambda each: each.loss_first), over_runs(runs, lambda each: each.loss_last)
    return [
        processors(record),
        str(len(case.runs)),
        f"{tokens_rate(runs):,.5g}",
        change,
        seconds(step_seconds(runs)),
        f"{middle(lambda each: each.p5_step_seconds, seconds)} to "
        f"{middle(lambda each: each.p95_step_seconds, seconds)}",
        middle(lambda each: each.cv, percent),
        middle(lambda each: each.tflops_per_second_per_processor, seconds),
        middle(lambda each: each.mfu, percent),
        middle(lambda each: each.peak.max_bytes or None, gibibytes),
        "–" if record.lone_rank else f"{number(first)} to {number(last)}",
    ]


def processors(record: Record) -> str:
    """How many of what ran the job, or which rank of it ran alone."""
    ranks, device = record.layout.world_size, record.device.name
    return f"{ranks} x {device}" if record.lone_rank is None else f"rank {record.lone_rank.rank} of {ranks}, {device}"


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many cases there are of each state, the worst first."""
    states = [verdict.state for verdict in verdicts]
    counts = [f"{states.count(state)} {state.replace('_', ' ')}" for state in WORST_FIRST if state in states]
    return f"{len(states)} cases, {', '.join(counts)}"


def verdict_word(verdict: Verdict) -> str:
    """A verdict's state as people read it."""
    return verdict.state.replace("_", " ").upper()

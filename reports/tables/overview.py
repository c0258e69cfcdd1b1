"""One row a case: the figures a reader came for."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.rule import WORST_FIRST
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
    run = case.median_run
    if run is None:
        return ["–", str(len(case.runs)), *["–"] * 9]
    record, summary = run.record, run.summary
    return [
        processors(record),
        str(len(case.runs)),
        f"{summary.tokens_per_second_per_processor:,.5g}",
        change,
        f"{summary.median_step_seconds:.4g}",
        f"{summary.p5_step_seconds:.4g} to {summary.p95_step_seconds:.4g}",
        percent(summary.cv),
        f"{summary.tflops_per_second_per_processor:.4g}",
        "–" if summary.mfu is None else percent(summary.mfu),
        gibibytes(summary.peak.max_bytes) if summary.peak.max_bytes else "–",
        "–" if record.lone_rank else f"{number(summary.loss_first)} to {number(summary.loss_last)}",
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

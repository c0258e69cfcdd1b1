"""One row a run of a case."""

from __future__ import annotations

from reports.case import CaseResult, Measured, Run
from reports.formats import gibibytes, more, number, percent
from reports.markdown import table

_MAX_RUNS = 20


def runs(case: CaseResult) -> str:
    """One row a run: the void ones first, then the slowest."""
    ordered = sorted(case.runs, key=lambda run: (run.record.valid, -_seconds(run)))
    counting = {each.record.id for each in case.measured}
    rows = [_run(run, case.median_run, run.record.id in counting) for run in ordered[:_MAX_RUNS]]
    headers = ["run", "s/step", "p5 to p95", "CV", "steps, of which warm-up", "peak GiB", "last loss", "state"]
    return table(headers, rows, numbers=range(1, 7)) + more(len(ordered), _MAX_RUNS, "runs")


def _seconds(run: Run) -> float:
    return 0.0 if run.summary is None else run.summary.median_step_seconds


def _run(run: Run, median: Measured | None, counts: bool) -> list[str]:
    record, summary = run.record, run.summary
    state = "ok" if record.valid else f"void: {record.void_reasons[0]}"
    if record.valid and not counts:
        state = "left out, disturbed from outside"
    if median is not None and record is median.record:
        state += ", the median run"
    if summary is None:
        return [record.id[:8], *["–"] * 6, state]
    return [
        record.id[:8],
        f"{summary.median_step_seconds:.4g}",
        f"{summary.p5_step_seconds:.4g} to {summary.p95_step_seconds:.4g}",
        percent(summary.cv),
        f"{len(record.steps)}, {summary.steady_from}",
        gibibytes(summary.peak.max_bytes) if summary.peak.max_bytes else "–",
        "–" if record.lone_rank else number(summary.loss_last),
        state + (", never settled" if summary.warmup_rule == "unsettled" else ""),
    ]

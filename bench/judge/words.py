"""A verdict in words: its sentence, a change's interval, a figure with its unit."""

from __future__ import annotations

from bench.judge.evidence import FAMILY_ERROR, MIN_RUNS_TO_DECIDE, Evidence
from bench.judge.metrics import RATE, STEP, metric_of
from bench.judge.verdict import Refusal, Row
from bench.records.record import Record


def interval(evidence: Evidence) -> str:
    """The change's interval, in percent."""
    return f"{evidence.low_percent:+.2f} to {evidence.high_percent:+.2f}"


def figure(name: str, value: float) -> str:
    """A figure with its unit."""
    return f"{value / 2**30:.3f} GiB" if name.endswith("_bytes") else f"{value:.5g}"


def verdict_sentence(record: Record, rows: tuple[Row, ...], worst: Row, measured: str) -> str:
    rate, seconds = (
        next(row for row in rows if (row.label, row.metric) == (worst.label, name)) for name in (RATE, STEP)
    )
    against = f"{rate.baseline:,.7g} ({seconds.baseline:.4g}) of {worst.label}"
    change = rate.change_percent
    moved = f"{abs(change):.1f} % {'faster' if change > 0 else 'slower'} than its baseline"
    ending = f"the limit is {abs(rate.limit_percent or 0):g} %"
    if worst.evidence is not None:
        return _weighed_sentence(record, worst, worst.evidence, f"{measured} against {against}")
    if worst.state == "improved":
        ending = "store a fresh baseline, so that losing this speed again is noticed"
    return f"{worst.state.upper()}: {record.case} ran {moved}: {measured} against {against}; {ending}"


def _weighed_sentence(record: Record, worst: Row, evidence: Evidence, figures: str) -> str:
    """The change with its interval, and what to do where that is not enough to tell."""
    theirs, ours = evidence.runs
    metric = metric_of(STEP if worst.metric == RATE else worst.metric)
    assert metric is not None
    unit = "% of a step" if metric.scale == "of a step" else "%"
    took = "took" if metric.name == STEP else f"{metric.title}:"
    changed = (
        f"{worst.state.upper()}: {record.case} {took} {evidence.change_percent:+.1f} {unit}"
        f"{' a step' if metric.name == STEP else ''} against its baseline "
        f"({evidence.low_percent:+.1f} to {evidence.high_percent:+.1f} % at {1 - FAMILY_ERROR:.0%} each way, "
        f"{ours} run{'s' * (ours > 1)} against {theirs}): {figures}"
    )
    endings = {
        "fail": "sure, and above the floor",
        "improved": "store a fresh baseline, so that losing this speed again is noticed",
        "pass": f"a slowdown of {evidence.visible_percent:.1f} % would have been seen",
        "inconclusive": (
            f"runs vary by {evidence.spread_percent:.1f} %, so only {evidence.visible_percent:.1f} % would surely have "
            f"been seen, and it takes {MIN_RUNS_TO_DECIDE} runs to decide; add --runs, or compare on one quiet machine"
        ),
    }
    return f"{changed}; {endings[worst.state]}"


def why_no_baseline(refusals: tuple[Refusal, ...]) -> str:
    if not refusals:
        return "no baseline is stored for this case"
    nearest = min(refusals, key=lambda refusal: len(refusal.differences))
    return (
        f"the nearest of {len(refusals)} baselines, {nearest.label}, was refused: "
        + ", ".join(nearest.differences[:3])
        + (f" and {len(nearest.differences) - 3} more" if len(nearest.differences) > 3 else "")
    )

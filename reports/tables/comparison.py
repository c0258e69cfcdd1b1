"""What a case is held against: each metric beside each baseline, where a change is, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.attribution import Attribution
from bench.judge.evidence import FAMILY_ERROR
from bench.judge.findings import Finding, digits
from bench.judge.metrics import RATE
from bench.judge.verdict import Row, Verdict
from bench.judge.words import change, change_unit, confidence, figure, interval_of, stored, title, visible_of
from reports.case import CaseResult
from reports.formats import more, percent
from reports.markdown import table, text

_MAX_BASELINES = 8
_MAX_ROWS = 60
_MAX_PARTS = 12
_MAX_COUNTS = 40
_MAX_REFUSALS = 10


def against_baselines(case: CaseResult) -> str:
    """Every comparison that was made, a table a baseline, then the baselines that were refused and why."""
    verdict = case.verdict
    labels = list(dict.fromkeys(row.label for row in verdict.rows))
    parts = [] if labels else ["No stored baseline matches."]
    for label in labels[:_MAX_BASELINES]:
        rows = [row for row in verdict.rows if row.label == label]
        parts += [f"{text(label)}: {text(rows[0].source)}.", _rows(rows)]
    parts += [more(len(labels), _MAX_BASELINES, "baselines")] if len(labels) > _MAX_BASELINES else []
    if any(row.evidence for row in verdict.rows):
        parts.append(_HOW)
    return "\n\n".join([*parts, *_refused(verdict)])


_HOW = (
    f"Measured, baseline: medians over runs. Change: of the runs' geometric means, which are what is tested; + is more "
    f"of it. Interval: the {confidence(FAMILY_ERROR)} confidence interval of the change, adjusted "
    "for all that was judged together. Detectable: the smallest slowdown that this many runs find with 95 % certainty."
)


def change_of_speed(verdict: Verdict) -> str:
    """Of tokens/s/p against the baseline that judges, for one cell."""
    row = next((row for row in verdict.rows if row.metric == RATE and row.state != "compared"), None)
    return "–" if row is None else f"{row.change_percent:+.1f} %"


def _rows(rows: Sequence[Row]) -> str:
    headers = ["metric", "measured", "baseline", "change", "interval", "limit", "detectable", "result"]
    told = [_cells(row) for row in rows[:_MAX_ROWS]]
    return table(headers, told, numbers=range(1, 7)) + more(len(rows), _MAX_ROWS)


def _cells(row: Row) -> list[str]:
    ends = interval_of(row)
    return [
        title(row.metric),
        figure(row.metric, row.measured),
        stored(row.metric, row.baseline),
        change(row.metric, row.change_percent),
        "–" if ends is None else f"{ends} {change_unit(row.metric)}",
        "–" if row.limit_percent is None else change(row.metric, row.limit_percent),
        visible_of(row) or "–",
        row.state,
    ]


def attribution(found: Attribution) -> str:
    """The parts of a step that moved, the largest first, and the exact counts that differ."""
    rows = [
        (
            part.kind,
            part.name,
            f"{part.before_seconds:.4g}",
            f"{part.after_seconds:.4g}",
            f"{part.change_seconds:+.3g}",
            percent(part.share),
        )
        for part in found.parts
    ]
    headers = ["part", "name", "seconds before", "after", "change", "of the step's change"]
    parts = [f"The step moved {found.step_change_seconds:+.3g} s. Collectives and modules are inside the phases."]
    if rows:
        parts.append(table(headers, rows[:_MAX_PARTS], numbers=range(2, 6)) + more(len(rows), _MAX_PARTS))
    counts = [(each.name, each.unit, f"{each.before:,.6g}", f"{each.after:,.6g}") for each in found.counted]
    if counts:
        told = table(["collective", "a step", "before", "after"], counts[:_MAX_COUNTS], numbers=(2, 3))
        parts += ["Counted exactly, so a change of the program:", told + more(len(counts), _MAX_COUNTS)]
    return "\n\n".join(parts)


def findings(found: Sequence[Finding]) -> str:
    """Each kind of change that was found, the costliest first."""
    rows = [(each.kind, each.sentence, _costs(each)) for each in found]
    headers = ["kind", "what", "cost"]
    return table(headers, rows[:_MAX_PARTS], numbers=(2,)) + more(len(rows), _MAX_PARTS)


def _costs(found: Finding) -> str:
    if found.kind == "memory":
        return f"{digits(found.percent)} % of the peak in 100 steps"
    return f"{digits(found.percent)} % of the mean step"


def _refused(verdict: Verdict) -> list[str]:
    parts = []
    for is_shown, heading in (
        (True, "Shown and not judged by, because the run is of another kind:"),
        (False, "Refused, because the key differs:"),
    ):
        rows = [(each.label, "; ".join(each.differences)) for each in verdict.refusals if each.is_shown == is_shown]
        if rows:
            told = table(["baseline", "what differs"], rows[:_MAX_REFUSALS]) + more(len(rows), _MAX_REFUSALS)
            parts += [heading, told]
    return parts

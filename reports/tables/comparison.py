"""What a case is held against: each metric beside each baseline, where a change is, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.attribution import Attribution
from bench.judge.evidence import FAMILY_ERROR
from bench.judge.findings import Finding, digits
from bench.judge.metrics import RATE
from bench.judge.verdict import Row, Verdict
from bench.judge.words import change, change_unit, confidence, figure, interval, title
from reports.case import CaseResult
from reports.formats import Unit, bytes_unit, more, percent, seconds_unit
from reports.markdown import state_cell, table, text

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
    f"Change: + is more of it. Interval: the {confidence(FAMILY_ERROR)} confidence interval of the change, adjusted "
    "for all that was judged together. Detectable: the smallest slowdown that this many runs find with 95 % certainty."
)


def _rows(rows: Sequence[Row]) -> str:
    headers = ["metric", "measured", "baseline", "change", "interval", "limit", "detectable", "result"]
    units = _units(rows)
    told = [_cells(row, units[_kind(row)]) for row in rows[:_MAX_ROWS]]
    return table(headers, told, numbers=range(1, 7)) + more(len(rows), _MAX_ROWS)


def _units(rows: Sequence[Row]) -> dict[str, Unit | None]:
    """One unit for all seconds, and one for all bytes."""
    values: dict[str, list[float]] = {"seconds": [], "bytes": []}
    for row in rows:
        values.setdefault(_kind(row), []).extend((row.measured, row.baseline))
    return {"seconds": seconds_unit(values["seconds"]), "bytes": bytes_unit(values["bytes"]), "rate": None}


def _kind(row: Row) -> str:
    return "rate" if row.metric == RATE else "bytes" if row.metric.endswith("_bytes") else "seconds"


def _cells(row: Row, unit: Unit | None) -> list[str]:
    visible = "–"
    if row.evidence is not None:
        found = row.evidence.visible_percent
        visible = change(row.metric, _of_rate(found) if row.metric == RATE else found)
    measured, baseline = (
        figure(row.metric, value) if unit is None else unit.told(value) for value in (row.measured, row.baseline)
    )
    return [
        title(row.metric),
        measured,
        baseline,
        change(row.metric, row.change_percent),
        interval_told(row),
        "–" if row.limit_percent is None else change(row.metric, row.limit_percent),
        visible,
        state_cell(row.state),
    ]


def interval_told(row: Row) -> str:
    """The interval of a row's change, with its unit."""
    ends = interval_of_row(row)
    return "–" if ends is None else f"{interval(*ends)} {change_unit(row.metric)}"


def interval_of_row(row: Row) -> tuple[float, float] | None:
    """In percent of the metric itself; None where nothing is known of it."""
    if row.evidence is None:
        return None
    low, high = row.evidence.low_percent, row.evidence.high_percent
    # the test was of seconds, which grow as the rate falls
    return (_of_rate(high), _of_rate(low)) if row.metric == RATE else (low, high)


def _of_rate(percent_of_seconds: float) -> float:
    """What a change of seconds is of tokens a second."""
    return 100 * (1 / max(1 + percent_of_seconds / 100, 1e-9) - 1)


def attribution(found: Attribution) -> str:
    """The parts of a step that moved, the largest first, and the exact counts that differ."""
    unit = seconds_unit([each for part in found.parts for each in (part.before_seconds, part.after_seconds)])
    rows = [
        (
            part.name,
            part.kind,
            unit.of(part.before_seconds),
            unit.of(part.after_seconds),
            f"{part.change_seconds / unit.size:+,.{unit.decimals}f}",
            percent(part.share),
        )
        for part in found.parts
    ]
    headers = ["part", "kind", f"{unit.name} before", "after", "change", "of the step's change"]
    moved = seconds_unit([found.step_change_seconds])
    sign = "+" if found.step_change_seconds > 0 else ""
    parts = [
        f"The step moved {sign}{moved.told(found.step_change_seconds)}. Collectives and modules are inside the phases."
    ]
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

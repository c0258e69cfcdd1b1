"""Where the time of a step went: phases, collectives, modules."""

from __future__ import annotations

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.formats import Unit, more, percent, seconds_unit, traffic_unit
from reports.markdown import table

_MAX_NAMES = 40


def time_split(record: Record, summary: Summary) -> str:
    """Where the time of a step went: each phase as the mean over ranks."""
    step = summary.median_step_seconds
    phases = list(summary.phase_seconds.items())
    unit = seconds_unit([step])
    rows = [(name, unit.of(seconds), percent(seconds / step)) for name, seconds in phases[:_MAX_NAMES]]
    rest = step - sum(summary.phase_seconds.values())
    outside, whole = "outside these, or waiting for the slowest rank", "step of the slowest rank"
    if record.lone_rank is not None:
        outside, whole = "outside these", "step of this rank"
    rows.append((outside, unit.of(rest), percent(rest / step)))
    rows.append((whole, unit.of(step), percent(1.0)))
    return table(["phase", unit.long, "of the step"], rows, numbers=(1, 2))


_MEASURED = "Seconds: mean over ranks, waiting for the others included. Calls and bytes: of all ranks together."
_COUNTED = "Of this rank: counted, as it would exchange them. Nothing was sent, so there are no seconds."


def collectives(record: Record, summary: Summary) -> tuple[str, str]:
    """Each kind of collective of a run, and what its columns are: of a rank alone, calls and bytes without seconds."""
    if record.lone_rank is not None:
        return _counted(record, summary), _COUNTED
    return _measured(record, summary), _MEASURED


def _counted(record: Record, summary: Summary) -> str:
    steps, moved = len(record.steps), summary.collective_bytes
    unit = _a_step(summary, steps)
    kinds = sorted(moved, key=lambda name: -moved[name])
    rows = [
        (name, f"{summary.collective_calls[name] / steps:,.6g}", unit.of(moved[name] / steps))
        for name in kinds[:_MAX_NAMES]
    ]
    headers = ["group and operation", "calls a step", f"{unit.name} a step"]
    return table(headers, rows, numbers=(1, 2)) + more(len(kinds), _MAX_NAMES)


def _measured(record: Record, summary: Summary) -> str:
    """Seconds as the mean over ranks, calls and bytes of all ranks."""
    step, steps = summary.median_step_seconds, len(record.steps)
    kinds = sorted(summary.collective_seconds.items(), key=lambda item: -item[1])
    unit, moved = seconds_unit(summary.collective_seconds.values()), _a_step(summary, steps)
    rows = [
        (
            name,
            unit.of(seconds),
            percent(seconds / step),
            f"{summary.collective_calls[name] / steps:,.6g}",
            moved.of(summary.collective_bytes[name] / steps),
        )
        for name, seconds in kinds[:_MAX_NAMES]
    ]
    headers = ["group and operation", f"{unit.name} a step", "of the step", "calls a step", f"{moved.name} a step"]
    return table(headers, rows, numbers=range(1, 5)) + more(len(kinds), _MAX_NAMES)


def _a_step(summary: Summary, steps: int) -> Unit:
    return traffic_unit([count / steps for count in summary.collective_bytes.values()])


def modules(summary: Summary) -> str:
    """Each kind of module: seconds of its own operators in the profiled step, mean over the ranks that say."""
    whole = sum(summary.module_seconds.values())
    found = sorted(summary.module_seconds.items(), key=lambda item: -item[1])
    unit = seconds_unit(summary.module_seconds.values())
    rows = [(name, unit.of(seconds), percent(seconds / whole)) for name, seconds in found[:_MAX_NAMES] if whole]
    return table(["module", unit.long, "of all modules"], rows, numbers=(1, 2)) + more(len(found), _MAX_NAMES)

"""Where the time of a step went: phases, collectives, modules."""

from __future__ import annotations

from bench.judge.stats import Summary
from bench.records.record import Record
from reports.formats import more, percent, traffic
from reports.markdown import table

_MAX_NAMES = 40


def time_split(record: Record, summary: Summary) -> str:
    """Where the time of a step went: each phase as the mean over ranks."""
    step = summary.median_step_seconds
    phases = list(summary.phase_seconds.items())
    rows = [(name, f"{seconds:.4g}", percent(seconds / step)) for name, seconds in phases[:_MAX_NAMES]]
    rest = step - sum(summary.phase_seconds.values())
    rows.append(("outside these, or waiting for the slowest rank", f"{rest:.4g}", percent(rest / step)))
    rows.append(("step of the slowest rank", f"{step:.4g}", percent(1.0)))
    return table(["phase", "seconds", "of the step"], rows, numbers=(1, 2))


def collectives(record: Record, summary: Summary) -> str:
    """Each kind of collective of a run: seconds as the mean over ranks, calls and bytes of all ranks."""
    step, steps = summary.median_step_seconds, len(record.steps)
    kinds = sorted(summary.collective_seconds.items(), key=lambda item: -item[1])
    rows = [
        (
            name,
            f"{seconds:.4g}",
            percent(seconds / step),
            f"{summary.collective_calls[name] / steps:,.6g}",
            traffic(summary.collective_bytes[name] / steps),
        )
        for name, seconds in kinds[:_MAX_NAMES]
    ]
    headers = ["group and operation", "seconds a step", "of the step", "calls a step", "moved a step"]
    return table(headers, rows, numbers=range(1, 5)) + more(len(kinds), _MAX_NAMES)


def modules(summary: Summary) -> str:
    """Each kind of module: seconds of its own operators in the profiled step, mean over the ranks that say."""
    whole = sum(summary.module_seconds.values())
    found = sorted(summary.module_seconds.items(), key=lambda item: -item[1])
    rows = [(name, f"{seconds:.4g}", percent(seconds / whole)) for name, seconds in found[:_MAX_NAMES] if whole]
    return table(["module", "seconds", "of all modules"], rows, numbers=(1, 2)) + more(len(found), _MAX_NAMES)

"""What is in no baseline's key and may be the whole change: environment variables, and the host beside a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.judge.recorded_run import RecordedRun
from bench.records.record import Record
from bench.records.terminal import plain

_MOST_NAMED = 3
_MOST_LETTERS = 41  # of a value


def told(before: Sequence[RecordedRun], after: Sequence[Record]) -> str:
    """In what the runs of the two sides are not alike, in words; empty where they are, or no run of a side says it."""
    theirs, ours = ([run for run in runs if run.host or run.environment] for runs in (before, after))
    if not (theirs and ours):
        return ""
    names = sorted({name for run in (*theirs, *ours) for name in run.environment})
    variables = [_apart(name, _settings(theirs, name), _settings(ours, name)) for name in names]
    found = [*filter(None, variables), *_hosts_apart(theirs, ours)]
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f", and {more} more of the environment" if more > 0 else "")


def _settings(runs: Iterable[Record | RecordedRun], name: str) -> list[str]:
    return [run.environment.get(name, "not set") for run in runs]


def _hosts_apart(before: Iterable[Record | RecordedRun], after: Iterable[Record | RecordedRun]) -> list[str]:
    theirs, ours = ([run.host for run in runs if run.host] for runs in (before, after))
    if not (theirs and ours):
        return []
    apart = [
        _apart("the host's CPU", [each.cpu_name for each in theirs], [each.cpu_name for each in ours]),
        _apart("the host's number of cores", [str(each.cores) for each in theirs], [str(each.cores) for each in ours]),
    ]
    return [each for each in apart if each]


def _apart(name: str, before: Iterable[str], after: Iterable[str]) -> str:
    theirs, ours = set(before), set(after)
    return "" if theirs == ours else f"{name} is {_listed(ours)}, at the baseline {_listed(theirs)}"


def _listed(values: Iterable[str]) -> str:
    told = [plain(value, _MOST_LETTERS) or "empty" for value in sorted(values)]
    return " or ".join(told[:_MOST_NAMED]) + " or others" * (len(told) > _MOST_NAMED)

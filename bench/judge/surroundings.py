"""What is in no baseline's key and may be the whole change: environment variables, and the host beside a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.judge.recorded_run import RecordedRun
from bench.records.record import Record

_MOST_NAMED = 3


def told(before: Sequence[RecordedRun], after: Sequence[Record]) -> str:
    """In what the runs of the two sides are not alike, in words; empty where they are, or a side does not say it."""
    runs: list[Record | RecordedRun] = [*before, *after]
    if not before or not all(run.host or run.environment for run in runs):
        return ""
    names = sorted({name for run in runs for name in run.environment})
    variables = [_apart(name, _settings(before, name), _settings(after, name)) for name in names]
    found = [*filter(None, variables), *_hosts_apart(before, after)]
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f", and {more} more of the environment" if more > 0 else "")


def _settings(runs: Iterable[Record | RecordedRun], name: str) -> list[str]:
    return [run.environment.get(name, "not set") for run in runs]


def _hosts_apart(before: Iterable[RecordedRun], after: Iterable[Record]) -> list[str]:
    theirs, ours = ([run.host for run in runs if run.host] for runs in (before, after))
    if not (theirs and ours):
        return []
    apart = [
        _apart("the host's CPU", [each.cpu_name for each in theirs], [each.cpu_name for each in ours]),
        _apart("the host's number of cores", [str(each.cores) for each in theirs], [str(each.cores) for each in ours]),
    ]
    return [each for each in apart if each]


def _apart(name: str, before: Iterable[str], after: Iterable[str]) -> str:
    theirs, ours = sorted(set(before)), sorted(set(after))
    return "" if theirs == ours else f"{name} is {' or '.join(ours)}, at the baseline {' or '.join(theirs)}"

"""The sets of versions that the runs of a series had, each with a short name."""

from __future__ import annotations

from collections.abc import Sequence

from bench.history.store import Entry

Versions = tuple[tuple[str, str], ...]

_MOST_NAMED = 6


def versions_of(entry: Entry) -> Versions:
    """Packages and their versions; none of a line from before they were kept."""
    return tuple(sorted(entry.software.items()))


def names_of(series: Sequence[Entry]) -> dict[Versions, str]:
    """Every set with its name, S1, S2, ... in the order of time."""
    found = dict.fromkeys(versions_of(entry) for entry in series if entry.software)
    return {versions: f"S{number}" for number, versions in enumerate(found, 1)}


def differences(before: Versions, after: Versions) -> str:
    """What is in other versions, in words; empty where nothing is, or one side is not known."""
    if not before or not after:
        return ""
    old, new = dict(before), dict(after)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    told = [f"{name} {old.get(name, 'absent')} to {new.get(name, 'absent')}" for name in names[:_MOST_NAMED]]
    return ", ".join(told) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")

"""The runs of a case as sides that stand beside each other: those of one program, recipe and machine are one side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.records.origin import ABSENT, origin_of, origins
from bench.records.record import Record
from reports.case import Measured
from reports.formats import more
from reports.markdown import table

_NAMES = "ABCDEFGH"
MAX_SIDES = len(_NAMES)
_MAX_ROWS = 60


@dataclass(frozen=True)
class Side:
    """Runs with nothing between them that a record tells; `facts` is where they come from."""

    name: str
    runs: tuple[Measured, ...]
    facts: Mapping[str, str]


def sides_of(runs: Iterable[Measured]) -> list[Side]:
    """The sides of these runs in their order, named A, B, ...; what follows H is left out."""
    found: dict[tuple[tuple[str, str], ...], list[Measured]] = {}
    for run in runs:
        found.setdefault(tuple(facts_of(run.record).items()), []).append(run)
    return [Side(name, tuple(each), dict(facts)) for name, (facts, each) in zip(_NAMES, found.items(), strict=False)]


def are_several(runs: Iterable[Measured]) -> bool:
    """Whether a median over these runs is of no one program, recipe and machine."""
    return origins(run.record for run in runs) > 1


def facts_of(record: Record) -> dict[str, str]:
    """Where it comes from: two logs are two sides, even if nothing else that they tell differs."""
    told = origin_of(record)
    return told if record.source is None else told | {"source": record.source}


def what_differs(sides: Sequence[Side]) -> str:
    """Every fact that is not the same on all sides, a column a side."""
    names = [name for name in _names(sides) if len({side.facts.get(name) for side in sides}) > 1]
    rows = [[name, *(side.facts.get(name, ABSENT) for side in sides)] for name in names]
    if not rows:
        return "Nothing that a record tells."
    headers = ["", *(side.name for side in sides)]
    return table(headers, rows[:_MAX_ROWS]) + more(len(rows), _MAX_ROWS, "differences")


def what_is_equal(sides: Sequence[Side]) -> str:
    """Every fact that is the same on all sides."""
    names = [name for name in _names(sides) if len({side.facts.get(name) for side in sides}) == 1]
    return table(["", "on all sides"], [[name, sides[0].facts[name]] for name in names])


def _names(sides: Sequence[Side]) -> list[str]:
    """Those of one kind together, as a side may have a value that the first has not."""
    found = list(dict.fromkeys(name for side in sides for name in side.facts))
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in found))
    return sorted(found, key=lambda name: kinds.index(name.partition(":")[0]))

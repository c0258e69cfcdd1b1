"""Which records are runs of one case, to be judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.judge.baseline import Baseline
from bench.records.lone_rank import told_tier
from bench.records.origin import flatten
from bench.records.record import Record
from bench.records.terminal import plain

_MOST_LETTERS = 61  # of one thing that tells groups of one case apart
_UNTOLD = ("name", "description")


def grouped(records: Iterable[Record], baselines: Sequence[Baseline] = ()) -> list[list[Record]]:
    """The records that are runs of one case, recipe, layout, device and work, in the order of their first.

    Without those that one of these baselines judges by, where a group has others: on both sides, they would say that
    nothing changed.

    Raises:
        ValueError: of one case there are runs of the whole job and of a rank alone.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    first: dict[str, Record] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
        _require_one_tier(first.setdefault(record.case, record), record)
    own = own_runs(baselines)
    return [[each for each in group if each.id not in own] or group for group in groups.values()]


def own_runs(baselines: Iterable[Baseline]) -> set[str]:
    """The ids of the runs that the judging ones of these baselines are made of."""
    return {run.record_id for each in baselines if each.role == "judge" for run in each.runs}


def told_own(records: Sequence[Record], groups: Iterable[Sequence[Record]], baselines: Iterable[Baseline]) -> str:
    """What to say of such runs among these records; empty where there are none."""
    own, judged = own_runs(baselines), {each.id for group in groups for each in group}
    given = {each.id for each in records if each.id in own}
    left_out, kept = given - judged, given & judged
    told = []
    if left_out:
        told.append(f"{len(left_out)} of these runs are left out: the baseline that judges the others is made of them")
    if kept:
        told.append(f"{len(kept)} of these runs belong to a baseline that judges them, so they cannot confirm it")
    return "; ".join(told)


def _require_one_tier(one: Record, other: Record) -> None:
    """A rank alone never waits, so that its step says nothing of the job's."""
    tiers = [told_tier(each.lone_rank) for each in (one, other)]
    if tiers[0] != tiers[1]:
        raise ValueError(
            f"records {one.id} ({tiers[0]}) and {other.id} ({tiers[1]}) are of one case, {one.case}, and are never "
            "compared: judge them apart, or give each its own --case"
        )


def _key(record: Record) -> tuple[str, ...]:
    parts = (part.model_dump_json() for part in (record.layout, record.device, record.work))
    return (record.case, record.recipe.hash, *parts, told_tier(record.lone_rank))


def told_apart(groups: Sequence[Sequence[Record]]) -> list[str]:
    """What tells each group from the others of its case, in words; empty where it has a case of its own."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group[0].case, []).append(place)
    found = [""] * len(groups)
    for of_case in (each for each in places.values() if len(each) > 1):
        for place, told in zip(of_case, _differences([_told(groups[place][0]) for place in of_case]), strict=True):
            found[place] = told
    return found


def _told(record: Record) -> dict[str, str]:
    """All that groups differ by, as people name it; the recipe's hash comes last, and says the least."""
    parts = (record.layout, record.device, record.work)
    return {
        **{name: f"{name}={value}" for name, value in flatten("", record.recipe.resolved) if name not in _UNTOLD},
        **{name: f"{name} {value}" for part in parts for name, value in part.model_dump().items()},
        "hash": f"recipe {record.recipe.hash}",
    }


def _differences(told: Sequence[Mapping[str, str]]) -> list[str]:
    """The fewest of these, in their order, that no two share; one that tells no more of them apart is left out."""
    chosen: list[str] = []
    words = [""] * len(told)
    for name in dict.fromkeys(name for one in told for name in one):
        tried = [
            ", ".join(plain(one.get(each, f"no {each}"), _MOST_LETTERS) for each in (*chosen, name)) for one in told
        ]
        if len(set(tried)) > len(set(words)):
            chosen.append(name)
            words = tried
    return words


def require_one_case(runs: list[Record]) -> None:
    """Raises ValueError where they are not of one group."""
    if not runs:
        raise ValueError("no record to judge")
    first = runs[0]
    for run in runs[1:]:
        _require_one_tier(first, run)
        if _key(run) != _key(first):
            raise ValueError(f"records {first.id} and {run.id} are not runs of one case, recipe, layout and device")

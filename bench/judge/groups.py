"""Which records are runs of one case, to be judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.judge.baseline import Baseline
from bench.records.lone_rank import told_tier
from bench.records.origin import flatten
from bench.records.record import Record

_MOST_TOLD = 2  # of what tells groups of one case apart


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
    told = [_told(group[0]) for group in groups]
    by_case: dict[str, list[dict[str, str]]] = {}
    for group, one in zip(groups, told, strict=True):
        by_case.setdefault(group[0].case, []).append(one)
    return [_difference(one, by_case[group[0].case]) for group, one in zip(groups, told, strict=True)]


def _told(record: Record) -> dict[str, str]:
    """What groups differ by, as people name it; the recipe's hash comes last, and says the least."""
    values = flatten("", record.recipe.resolved)
    return {
        **{name: f"{name}={value}" for name, value in values if name not in ("name", "description")},
        **{f"layout.{name}": f"{name} {size}" for name, size in record.layout.model_dump().items()},
        "device": f"{record.device.name}, {record.device.dtype}",
        "work": f"{record.work.tokens_per_step:,} tokens a step",
        "hash": f"recipe {record.recipe.hash}",
    }


def _difference(one: Mapping[str, str], all_of_case: Sequence[Mapping[str, str]]) -> str:
    differs = [word for name, word in one.items() if any(other.get(name) != word for other in all_of_case)]
    return ", ".join(differs[:_MOST_TOLD])


def require_one_case(runs: list[Record]) -> None:
    """Raises ValueError where they are not of one group."""
    if not runs:
        raise ValueError("no record to judge")
    first = runs[0]
    for run in runs[1:]:
        _require_one_tier(first, run)
        if _key(run) != _key(first):
            raise ValueError(f"records {first.id} and {run.id} are not runs of one case, recipe, layout and device")

"""What a record says twice: of one run both are equal, and a file in which they differ was changed by hand.

Pure functions of what was parsed. Each raises a ValueError of one line with both values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.records.record import RankSamples, Record

_ROUNDING_SECONDS = 1e-6
_OF_LAYOUT = ("world_size", "tensor", "context", "pipeline", "virtual_pipeline", "expert", "expert_tensor")
_OF_WORK = ("sequence_length", "global_batch")


def check_recipe(record: Record) -> None:
    """Layout, work and number format against the recipe that ran, as far as it states them."""
    parallel, training = (_section(record.recipe.resolved, name) for name in ("parallel", "training"))
    pairs: list[tuple[str, object, str, object]] = [
        *(
            (f"layout.{name}", getattr(record.layout, name), f"parallel.{name}", parallel.get(name))
            for name in _OF_LAYOUT
        ),
        *((f"work.{name}", getattr(record.work, name), f"training.{name}", training.get(name)) for name in _OF_WORK),
        ("device.dtype", record.device.dtype, "training.dtype", training.get("dtype")),
    ]
    for name, here, key, there in pairs:
        if there is not None and there != here:
            raise ValueError(f"{name} is {here}, and {key} of the recipe that ran {there}")
    micro = training.get("micro_batch")
    samples = record.layout.data * record.work.num_micro_batches
    if isinstance(micro, int) and record.work.global_batch != micro * samples:
        raise ValueError(
            f"work.num_micro_batches is {record.work.num_micro_batches}: a global batch of {record.work.global_batch} "
            f"is not as many of {micro} on {record.layout.data} replicas"
        )


def _section(resolved: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = resolved.get(name)
    return found if isinstance(found, dict) else {}


def check_day(record: Record) -> None:
    """A run ends on the day on which its benchmark was started, or later."""
    if record.session is None:
        return
    try:
        day = date.fromisoformat(record.session.day)
    except ValueError:
        raise ValueError(f"session.day {record.session.day} is no date") from None
    if record.created_at[:10] < day.isoformat():
        raise ValueError(f"created_at {record.created_at} is before session.day {record.session.day}")


def check_stages(record: Record) -> None:
    """Each stage of the pipeline has as many ranks as any other; of ranks that are not all here, at most so many."""
    each = record.layout.world_size // record.layout.pipeline
    for stage, number in Counter(rank.stage for rank in record.ranks).items():
        if number > each:
            raise ValueError(f"{number} ranks are of stage {stage}, and a stage has {each}")


def check_sums(rank: RankSamples) -> None:
    """All communication is that of its kinds together."""
    kinds = rank.collectives.values()
    if not kinds:
        return
    _check_sum(rank, "calls", sum(each.calls for each in kinds), rank.communication_calls)
    _check_sum(rank, "bytes", sum(each.bytes for each in kinds), rank.communication_bytes)
    of_kinds = [each.seconds for each in kinds]
    for index, (whole, *parts) in enumerate(zip(rank.communication_seconds, *of_kinds, strict=False)):
        if abs(sum(parts) - whole) > _ROUNDING_SECONDS * (1 + whole):
            raise ValueError(
                f"rank {rank.rank}: communication_seconds at place {index} is {whole:g}, and that of collectives "
                f"{sum(parts):g}"
            )


def _check_sum(rank: RankSamples, name: str, parts: int, whole: Sequence[int]) -> None:
    if whole and parts != sum(whole):
        raise ValueError(f"rank {rank.rank}: communication_{name} are {sum(whole)}, and those of collectives {parts}")

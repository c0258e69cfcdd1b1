"""Two ledgers beside each other, as data: what each is of, the totals of both, and every figure that differs."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.ledger.schema import Difference, Ledger, RankLedger, differences, incomparable
from bench.records.fields import Count, Strict
from bench.records.jsonfile import write_model

Sum = Annotated[int, Field(ge=0)]  # over ranks: beyond what one rank's count may be
Figure = Literal[
    "matrix_flops",
    "vector_flops",
    "bytes_read_and_written",
    "operator_calls",
    "collective_calls",
    "collective_bytes",
    "peak_bytes",
    "static_bytes",
]
_Figures = dict[Figure, int]
_Place = tuple[int | None, int | None]  # a counted rank and its stage; of all ranks neither
_MEMORY_FIGURES = 2  # the last of the totals: of all ranks the most is told, not the sum


class Fit(Strict):
    """Whether the fullest counted rank's need fits what a device shows: tensors, communicators and margin, in bytes."""

    rank: Count
    needed_bytes: Sum
    device_bytes: Sum
    fits: bool


class Side(Strict):
    """One of the two ledgers: how it was named, and what it is of."""

    name: Annotated[str, Field(max_length=10_000)]  # as the command line has it
    recipe_name: str
    recipe_hash: str
    software: dict[str, str]
    num_micro_batches: Count
    ranks: list[Count]  # that were counted
    unknown_operators: dict[str, Count]  # of which no FLOPs are counted
    fit: Fit | None = None  # of --versus


class Total(Strict):
    """One figure of both sides: of all ranks of the job together, or of the counted rank of a stage."""

    rank: Annotated[int, Field(ge=0)] | None  # of the second ledger; None: all ranks
    stage: Annotated[int, Field(ge=0)] | None
    figure: Figure
    before: Sum
    after: Sum


class Comparison(Strict):
    """What `--diff` and `--versus` show; --json writes it. Nothing in it is rounded."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    before: Side
    after: Side
    incomparable: list[str]  # why a difference may not be the code's
    totals: list[Total]
    differences: list[Difference]  # on ranks that both hold, the largest relative change first


def comparison(
    before: Ledger, after: Ledger, names: tuple[str, str], fits: tuple[Fit | None, Fit | None] = (None, None)
) -> Comparison:
    """All that two ledgers tell of each other."""
    return Comparison(
        before=_side(before, names[0], fits[0]),
        after=_side(after, names[1], fits[1]),
        incomparable=incomparable(before, after),
        totals=totals(before, after),
        differences=differences(before, after),
    )


def write_comparison(path: Path, found: Comparison) -> None:
    """Atomically, the same bytes for the same two ledgers."""
    write_model(path, found)


def totals(before: Ledger, after: Ledger) -> list[Total]:
    """Of all ranks together, and of each stage's rank where there are as many stages."""
    sides: list[tuple[_Place, _Figures, _Figures]] = [((None, None), _of_all(before), _of_all(after))]
    if len(before.ranks) == len(after.ranks):
        pairs = zip(before.ranks, after.ranks, strict=True)
        sides += [((new.rank, new.stage), _of_rank(old), _of_rank(new)) for old, new in pairs]
    return [
        Total(rank=rank, stage=stage, figure=figure, before=old, after=ours[figure])
        for (rank, stage), theirs, ours in sides
        for figure, old in theirs.items()
    ]


def _side(ledger: Ledger, name: str, fit: Fit | None) -> Side:
    return Side(
        name=name,
        recipe_name=ledger.recipe_name,
        recipe_hash=ledger.recipe_hash,
        software=ledger.software,
        num_micro_batches=ledger.num_micro_batches,
        ranks=[rank.rank for rank in ledger.ranks],
        unknown_operators=ledger.unknown_operators,
        fit=fit,
    )


def _of_all(ledger: Ledger) -> _Figures:
    """Sums over the ranks that each counted rank stands for; of memory, the fullest rank's."""
    found = [_of_rank(rank) for rank in ledger.ranks]
    alike = [rank.ranks_alike for rank in ledger.ranks]
    names = list(found[0])
    summed = {name: sum(map(operator.mul, (each[name] for each in found), alike)) for name in names[:-_MEMORY_FIGURES]}
    return summed | {name: max(each[name] for each in found) for name in names[-_MEMORY_FIGURES:]}


def _of_rank(rank: RankLedger) -> _Figures:
    def total(field: str) -> int:
        return sum(getattr(row, field) for row in rank.costs)

    return {
        "matrix_flops": total("matrix_flops"),
        "vector_flops": total("vector_flops"),
        "bytes_read_and_written": total("bytes_read") + total("bytes_written"),
        "operator_calls": total("operator_calls"),
        "collective_calls": sum(row.calls for row in rank.collectives),
        "collective_bytes": sum(row.bytes for row in rank.collectives),
        "peak_bytes": rank.memory.peak_bytes,
        "static_bytes": rank.memory.static_bytes,
    }

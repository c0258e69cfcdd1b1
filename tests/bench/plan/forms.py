"""What the planner says of a step and what the ledger counted, in one form, to be compared."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bench.ledger.schema import RankLedger
from bench.plan.layouts import Places
from bench.plan.parameters import parameters
from bench.plan.products import attention_cores, matrix_flops, products
from bench.plan.work import Exchange

Rows = dict[tuple[str, str, str, str], tuple[int, int]]  # (phase, group, operation, dtype) -> (calls, bytes)
Flops = dict[tuple[str, str], int]  # of a step, by (phase, component)


def rows_of(places: Places, found: tuple[Exchange, ...]) -> list[Rows]:
    """Of each place, a whole step's as the ledger has them."""
    calls: list[Counter[tuple[str, str, str, str]]] = [Counter() for _ in places.stage]
    sizes: list[Counter[tuple[str, str, str, str]]] = [Counter() for _ in places.stage]
    for each in found:
        key, times = (each.phase, each.group, each.operation, each.dtype), np.ones_like(each.calls)
        times = places.of.micro_batches if each.per == "micro_batch" else times
        for place in np.flatnonzero(each.calls).tolist():
            calls[place][key] += int(each.calls[place] * times[place])
            sizes[place][key] += int(each.bytes[place] * times[place])
    return [{key: (own[key], size[key]) for key in own} for own, size in zip(calls, sizes, strict=True)]


def ledgers_rows(rank: RankLedger) -> Rows:
    return {(row.phase, row.group, row.operation, row.dtype): (row.calls, row.bytes) for row in rank.collectives}


def differences(ours: Rows, theirs: Rows) -> list[str]:
    """What is unlike, in words: the row, then (calls, bytes) of the planner's and of the ledger's."""
    return [
        f"{' '.join(key)}: {ours.get(key)} planned, {theirs.get(key)} counted"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]


def planned_flops(places: Places, shares: tuple[float, ...] | None = None) -> list[Flops]:
    """Of each place."""
    found = matrix_flops(products(places, shares), attention_cores(places))
    times = places.of.micro_batches
    return [
        {key: int(flops[row] * times[row]) for key, flops in found.items() if flops[row]} for row in range(len(places))
    ]


def counted_flops(rank: RankLedger) -> Flops:
    return {(row.phase, row.component): row.matrix_flops for row in rank.costs if row.matrix_flops}


def planned_parameters(places: Places) -> list[tuple[int, ...]]:
    found = parameters(places)
    return list(zip(found.dense.tolist(), found.expert.tolist(), found.embedding.tolist(), strict=True))


def counted_parameters(rank: RankLedger) -> tuple[int, ...]:
    return rank.parameters.dense, rank.parameters.expert, rank.parameters.embedding

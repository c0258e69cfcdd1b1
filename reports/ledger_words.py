"""Names, orders and units of a cost ledger's section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.ledger.schema import Ledger, phase_totals
from reports.formats import Unit, fitting

COMPONENTS = ("experts", "attention projections", "attention core", "head", "router", "embedding", "dispatch", "norms")
GROUPS = (
    "tensor",
    "expert",
    "expert-tensor",
    "expert-tensor x expert",
    "data",
    "expert-data",
    "pipeline",
    "embedding",
    "world",
)
OTHERS = "others"
MAX_RANKS = 16


_FLOP = (Unit("TFLOP", 10**12), Unit("GFLOP", 10**9), Unit("MFLOP", 10**6))
_VECTOR = _FLOP[1:]
_BYTES = (Unit("GB", 10**9), Unit("MB", 10**6), Unit("kB", 10**3))
_MEMORY = (Unit("GiB", 2**30), Unit("MiB", 2**20))


@dataclass(frozen=True)
class Units:
    """One unit for each kind of figure, the same for all ranks, so that they compare by eye."""

    matrix: Unit
    vector: Unit
    traffic: Unit
    collective: Unit
    memory: Unit


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The names that we know in our order, then the others in theirs."""
    given = list(names)
    return [name for name in known if name in given] + [name for name in given if name not in known]


def units_of(ledger: Ledger) -> Units:
    phases = [total for rank in ledger.ranks[:MAX_RANKS] for total in phase_totals(rank).values()]
    matrix = [sum(row.matrix_flops for row in rank.costs) for rank in ledger.ranks]
    traffic = [max(total["bytes_read"], total["bytes_written"]) for total in phases]
    return Units(
        matrix=fitting(matrix, _FLOP),
        vector=fitting([total["vector_flops"] for total in phases], _VECTOR),
        traffic=fitting(traffic, _BYTES),
        collective=fitting([sum(row.bytes for row in rank.collectives) for rank in ledger.ranks], _BYTES),
        memory=fitting([rank.memory.peak_bytes for rank in ledger.ranks], _MEMORY),
    )

"""Names, orders and units of a cost ledger's section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.ledger.schema import Ledger, phase_totals

COMPONENTS = ("experts", "attention projections", "attention core", "head", "router", "embedding", "dispatch", "norms")
GROUPS = ("tensor", "expert", "expert-tensor", "data", "expert-data", "pipeline", "embedding", "world")
OTHERS = "others"
MAX_RANKS = 16


@dataclass(frozen=True)
class Unit:
    """What figures of one kind are told in."""

    name: str
    size: int

    def of(self, count: int) -> str:
        """The count in this unit with four digits, two where it is next to nothing."""
        value = count / self.size
        if 0 < value < 0.001:
            return f"{value:.2g}"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


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
        matrix=_fitting(matrix, _FLOP),
        vector=_fitting([total["vector_flops"] for total in phases], _VECTOR),
        traffic=_fitting(traffic, _BYTES),
        collective=_fitting([sum(row.bytes for row in rank.collectives) for rank in ledger.ranks], _BYTES),
        memory=_fitting([rank.memory.peak_bytes for rank in ledger.ranks], _MEMORY),
    )


def _fitting(counts: Iterable[int], units: Sequence[Unit]) -> Unit:
    """The largest unit that the largest count fills, else the smallest."""
    most = max(counts, default=0)
    return next((unit for unit in units if most >= unit.size), units[-1])

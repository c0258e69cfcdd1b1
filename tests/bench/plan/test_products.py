"""Parameters, products and attention cores in closed form against the ledger, with zero tolerance."""

from __future__ import annotations

from bench.ledger.schema import RankLedger
from bench.plan.parameters import parameters
from bench.plan.products import attention_cores, matrix_flops, products
from tests.bench.plan.sample import Counted


def counted_flops(rank: RankLedger) -> dict[tuple[str, str], int]:
    return {(row.phase, row.component): row.matrix_flops for row in rank.costs if row.matrix_flops}


def test_parameters_are_the_ledgers(counted: list[Counted]) -> None:
    for sample in counted:
        found = parameters(sample.places)
        for row, rank in enumerate(sample.ranks):
            ours = found.dense[row], found.expert[row], found.embedding[row]
            theirs = rank.parameters.dense, rank.parameters.expert, rank.parameters.embedding
            assert ours == theirs, f"{sample.name}, layout {sample.places.layout[row]}, stage {rank.stage}"


def test_matrix_flops_are_the_ledgers_by_phase_and_component(counted: list[Counted]) -> None:
    for sample in counted:
        found = matrix_flops(products(sample.places), attention_cores(sample.places))
        micro_batches = sample.places.of.micro_batches
        for row, rank in enumerate(sample.ranks):
            ours = {key: int(flops[row] * micro_batches[row]) for key, flops in found.items() if flops[row]}
            assert ours == counted_flops(rank), f"{sample.name}, layout {sample.places.layout[row]}, stage {rank.stage}"

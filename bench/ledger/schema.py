"""The exact cost of a training step, rank by rank: what it holds, how two are compared, how it reads. No torch.

A ledger has no noise: the same tree gives the same bytes on every machine, so it is compared with zero tolerance.
What can move it beside the code, the versions of torch and megatron-core, is in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from bench.records.fields import Count, Strict
from bench.records.jsonfile import read_model, write_model

MAX_LEDGER_BYTES = 8 << 20


def _printable(text: str) -> str:
    """Ledgers are shown in terminals and in pull requests, and come from there."""
    if not text.isprintable():
        raise ValueError("holds a character that is not printable")
    return text


# unlike the name of a record it may be empty
Label = Annotated[str, Field(max_length=200), AfterValidator(_printable)]


class CostRow(Strict):
    """Operators of one component in one phase of a step. FLOPs and bytes as bench.ledger.operators counts them."""

    phase: Label
    component: Label
    operator_calls: Count
    matrix_flops: Count
    vector_flops: Count
    bytes_read: Count
    bytes_written: Count


class CollectiveRow(Strict):
    """Calls of one collective on one kind of group in one phase; bytes are of each call's larger side."""

    phase: Label
    group: Label
    operation: Label
    dtype: Label
    calls: Count
    bytes: Count


class Parameters(Strict):
    """Parameters that the rank holds."""

    dense: Count
    expert: Count
    embedding: Count  # the head's rows too


class Memory(Strict):
    """Tensor storages alive at the step's peak, by what they are, and those alive between steps."""

    peak_bytes: Count
    peak_phase: Label
    peak_component: Label
    weights_bytes: Count
    gradients_bytes: Count
    optimizer_bytes: Count
    activations_bytes: Count
    temporary_bytes: Count
    static_bytes: Count


class TimelinePoint(Strict):
    """The most memory alive during one stretch of the step."""

    phase: Label
    component: Label
    bytes: Count


class RankLedger(Strict):
    """One rank's step."""

    rank: Count
    stage: Count
    ranks_alike: Count  # ranks that it stands for in the totals, itself included
    parameters: Parameters
    costs: Annotated[list[CostRow], Field(max_length=10_000)]
    collectives: Annotated[list[CollectiveRow], Field(max_length=10_000)]
    memory: Memory
    timeline: Annotated[list[TimelinePoint], Field(max_length=1000)]


class Ledger(Strict):
    """A recipe's step, counted on some of its ranks."""

    schema_version: Literal[1] = Field(alias="schema")
    recipe_name: Label
    recipe_hash: Label
    software: dict[Label, Label]
    routing_shares: Annotated[list[float], Field(max_length=4096)]
    num_micro_batches: Count
    ranks: Annotated[list[RankLedger], Field(min_length=1, max_length=65_536)]
    unknown_operators: dict[Label, Count]  # of which no FLOPs are counted: then the ledger is too low
    rationale: Annotated[str, Field(max_length=2000)] = ""

    @property
    def engine_line(self) -> str:
        """The line of megatron-core that counted it, such as "0.12"."""
        return ".".join(self.software.get("megatron_core", "unknown").split(".")[:2])

    @property
    def is_complete(self) -> bool:
        """Every operator that ran has a FLOP formula or is known to have none."""
        return not self.unknown_operators

    def total(self, field: str) -> int:
        """Sum over all ranks of the job of a field of the cost rows."""
        return sum(getattr(row, field) * rank.ranks_alike for rank in self.ranks for row in rank.costs)


def read_ledger(path: Path) -> Ledger:
    """A stored ledger; a ValueError of one line says what is wrong with the file."""
    return read_model(path, Ledger, max_bytes=MAX_LEDGER_BYTES)


def write_ledger(path: Path, ledger: Ledger) -> None:
    """Atomically, the same bytes for the same ledger."""
    write_model(path, ledger)


# ---- comparing -----------------------------------------------------------------------------------------


class Difference(Strict):
    """One figure that is not the same."""

    rank: int
    what: str
    figure: str
    before: int
    after: int


def incomparable(before: Ledger, after: Ledger) -> list[str]:
    """Why two ledgers of one recipe are of different things, so that a difference may not be the code's."""
    reasons = []
    if before.engine_line != after.engine_line:
        reasons.append(
            f"two lines of the engine: counted by megatron-core {before.engine_line} before, {after.engine_line} after"
        )
    for name in sorted({*before.software, *after.software}):
        old, new = before.software.get(name, "absent"), after.software.get(name, "absent")
        if old != new:
            reasons.append(f"{name} {old} before, {new} after")
    if before.recipe_hash != after.recipe_hash:
        reasons.append(f"recipe {before.recipe_hash} before, {after.recipe_hash} after")
    if before.routing_shares != after.routing_shares:
        reasons.append("the routing differs")
    if [rank.rank for rank in before.ranks] != [rank.rank for rank in after.ranks]:
        reasons.append("other ranks were counted")
    return reasons


def differences(before: Ledger, after: Ledger) -> list[Difference]:
    """Every figure that differs on the ranks that both hold, largest relative change first. Zero tolerance."""
    old_ranks = {rank.rank: rank for rank in before.ranks}
    found = []
    for new in after.ranks:
        old = old_ranks.get(new.rank)
        if old is None:
            continue
        theirs, ours = dict(_figures(old)), dict(_figures(new))
        for what, figure in sorted({*theirs, *ours}):
            pair = theirs.get((what, figure), 0), ours.get((what, figure), 0)
            if pair[0] != pair[1]:
                found.append(Difference(rank=new.rank, what=what, figure=figure, before=pair[0], after=pair[1]))
    return sorted(found, key=lambda each: -abs(each.after - each.before) / max(each.before, each.after))


def _figures(rank: RankLedger) -> Iterator[tuple[tuple[str, str], int]]:
    """Every figure of a rank by ((what it is of), (its name))."""
    groups: list[tuple[str, Any, tuple[str, ...]]] = [
        ("parameters", rank.parameters, ()),
        ("memory", rank.memory, ()),
        *((f"{row.phase}: {row.component}", row, ("phase", "component")) for row in rank.costs),
        *(
            (f"{row.phase}: {row.operation} on {row.group}, {row.dtype}", row, ("phase", "group", "operation", "dtype"))
            for row in rank.collectives
        ),
    ]
    for what, row, keys in groups:
        for figure, value in row.model_dump(exclude=set(keys)).items():
            if isinstance(value, int):
                yield (what, figure), value


# ---- reading -------------------------------------------------------------------------------------------


def phase_totals(rank: RankLedger) -> dict[str, dict[str, int]]:
    """Sums of the cost figures by phase, in the order in which the phases first appear."""
    return _cost_totals(rank, "phase")


def component_totals(rank: RankLedger) -> dict[str, dict[str, int]]:
    """Sums of the cost figures by component."""
    return _cost_totals(rank, "component")


def _cost_totals(rank: RankLedger, axis: Literal["phase", "component"]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rank.costs:
        for figure, value in row.model_dump(exclude={"phase", "component"}).items():
            totals[getattr(row, axis)][figure] += value
    return totals


def group_totals(rank: RankLedger) -> dict[tuple[str, str], dict[str, int]]:
    """(calls, bytes) of the collectives by (group, operation)."""
    totals: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rank.collectives:
        totals[(row.group, row.operation)]["calls"] += row.calls
        totals[(row.group, row.operation)]["bytes"] += row.bytes
    return totals

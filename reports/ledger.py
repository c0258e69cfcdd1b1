"""A cost ledger as a section of the report: what one step costs each rank, in tables and pictures.

A ledger may come from a stranger: its names are escaped, and what it may hold too much of is cut short, and said so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bench.ledger.schema import Ledger, RankLedger, group_totals, phase_totals
from bench.records.jsonfile import write_atomically
from bench.records.phases import LEDGER_PHASES
from reports.formats import Unit, fitting
from reports.ledger_pictures import CAPTIONS, MAX_PANELS, collectives_picture, flops_picture, memory_picture
from reports.ledger_words import MAX_RANKS, Units, in_order, units_of
from reports.markdown import table, text

_MAX_NAMES = 40


def section_of(ledger: Ledger, places: Sequence[tuple[Path, float]], index: int = 0) -> list[str]:
    """The parts of a report, as Markdown, that tell of this ledger.

    Its plots are written into each of `places`: a folder, and how wide those in it are, in inches. Without one
    there are none. `index` keeps two ledgers' plots apart.
    """
    ranks = ledger.ranks[:MAX_RANKS]
    labels, units = _labels(ranks), units_of(ledger)
    parts = [f"## Cost ledger: {text(ledger.recipe_name)}", *_warning(ledger), _facts(ledger, units.matrix)]
    if len(ledger.ranks) > len(ranks):
        parts.append(f"The first {len(ranks)} ranks follow; {len(ledger.ranks) - len(ranks)} more are in the ledger.")
    parts += [
        "### What a rank holds and does in a step",
        _overview(ranks, units),
        *_shown("flops", partial(flops_picture, ranks, labels, units), places, index),
        *_shown("collectives", partial(collectives_picture, ranks, labels, units), places, index),
        "### Memory at the peak",
        _memory(ranks, units.memory),
        *_shown("memory", partial(memory_picture, ranks, labels, units.memory), places, index),
    ]
    if places and len(ranks) > MAX_PANELS:
        parts.append(f"The picture has room for {MAX_PANELS} of these ranks.")
    for label, rank in zip(labels, ranks, strict=True):
        parts += [f"### {label.capitalize()}", _phases(rank, units), _collectives(rank, units.collective)]
    return [*parts, _CONVENTIONS]


_CONVENTIONS = (
    "Counted, not measured: the same tree gives the same figures on every machine. Matrix FLOPs: 2 a multiply-add. "
    "Vector FLOPs: 1 an element. Read and written: each tensor once an operator, as if no cache held it. Collective "
    "bytes: the larger side of each call. Memory: tensors that are alive; what a kernel or the allocator takes beyond "
    "them is not seen, and the step that was run may have fewer micro-batches than the recipe's. The stretches of its "
    "timeline are of equally many module changes, not of equal time."
)


def _warning(ledger: Ledger) -> list[str]:
    """What makes every figure below too low, if anything does."""
    unknown = sorted(ledger.unknown_operators.items(), key=lambda item: (-item[1], item[0]))
    if not unknown:
        return []
    more = f" and {len(unknown) - _MAX_NAMES} more" if len(unknown) > _MAX_NAMES else ""
    names = ", ".join(f"{text(name)} ({calls:,} calls)" for name, calls in unknown[:_MAX_NAMES])
    return [f"**Too low: the FLOPs of {len(unknown)} unknown operator(s) are not counted:** {names}{more}."]


def _facts(ledger: Ledger, matrix: Unit) -> str:
    state = "complete: every operator is known" if ledger.is_complete else "INCOMPLETE: the FLOPs are too low"
    stands_for = sum(rank.ranks_alike for rank in ledger.ranks)
    whole = fitting([ledger.total("matrix_flops")], [matrix])
    rows = [
        ("recipe", f"{ledger.recipe_name}, hash {ledger.recipe_hash}"),
        ("operators", state),
        ("ranks counted", f"{_listed(rank.rank for rank in ledger.ranks)}, standing for {stands_for:,}"),
        ("micro-batches a step", f"{ledger.num_micro_batches:,}"),
        ("routing", _routing(ledger.routing_shares)),
        (f"matrix FLOPs of {stands_for:,} ranks", f"{whole.told(ledger.total('matrix_flops'))} a step"),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(ledger.software.items()))),
    ]
    return table(["what", "value"], rows + [("rationale", ledger.rationale)] * bool(ledger.rationale))


def _routing(shares: Sequence[float]) -> str:
    if not shares:
        return "no experts"
    if max(shares) - min(shares) < 1e-9:
        return f"even over {len(shares)} experts"
    if len(shares) > MAX_RANKS:
        return f"uneven over {len(shares)} experts: {100 * min(shares):.3g} to {100 * max(shares):.3g} %"
    return f"uneven over {len(shares)} experts: {', '.join(f'{100 * share:.3g}' for share in shares)} %"


def _listed(numbers: Iterable[int]) -> str:
    values = [str(number) for number in numbers]
    more = f" and {len(values) - MAX_RANKS} more" if len(values) > MAX_RANKS else ""
    return ", ".join(values[:MAX_RANKS]) + more


def _overview(ranks: Sequence[RankLedger], units: Units) -> str:
    headers = ["stage", "rank", "stands for", "dense parameters", "expert", "embedding, head"]
    headers += [f"matrix {units.matrix.name}", "operator calls", f"collectives, {units.collective.name}"]
    rows = [
        (
            rank.stage,
            rank.rank,
            f"{rank.ranks_alike:,}",
            *(f"{count:,}" for count in (rank.parameters.dense, rank.parameters.expert, rank.parameters.embedding)),
            units.matrix.of(sum(row.matrix_flops for row in rank.costs)),
            f"{sum(row.operator_calls for row in rank.costs):,}",
            units.collective.of(sum(row.bytes for row in rank.collectives)),
        )
        for rank in ranks
    ]
    return table(headers, rows, numbers=range(9))


def _memory(ranks: Sequence[RankLedger], unit: Unit) -> str:
    kinds = ("peak", "weights", "gradients", "optimizer", "activations", "temporary", "static")
    headers = ["stage", "rank", f"peak, {unit.name}", *kinds[1:-1], "between steps", "where the peak is"]
    rows = [
        (
            rank.stage,
            rank.rank,
            *(unit.of(getattr(rank.memory, f"{kind}_bytes")) for kind in kinds),
            f"{rank.memory.peak_phase}, {rank.memory.peak_component}",
        )
        for rank in ranks
    ]
    return table(headers, rows, numbers=range(9))


def _phases(rank: RankLedger, units: Units) -> str:
    """What each phase costs the rank, and all of them."""
    totals = phase_totals(rank)
    names = in_order(totals, LEDGER_PHASES)
    columns = (
        ("matrix_flops", f"matrix {units.matrix.name}", units.matrix),
        ("vector_flops", f"vector {units.vector.name}", units.vector),
        ("bytes_read", f"{units.traffic.name} read", units.traffic),
        ("bytes_written", f"{units.traffic.name} written", units.traffic),
        ("operator_calls", "operator calls", None),
    )
    everything = {figure: sum(each[figure] for each in totals.values()) for figure, _, _ in columns}
    told = [(name, totals[name]) for name in names[:_MAX_NAMES]] + [("all phases", everything)]
    rows = [
        (name, *(unit.of(total[figure]) if unit else f"{total[figure]:,}" for figure, _, unit in columns))
        for name, total in told
    ]
    return table(["phase", *(header for _, header, _ in columns)], rows, numbers=range(1, 6)) + _left(names)


def _collectives(rank: RankLedger, unit: Unit) -> str:
    """What each kind of group moves, and how."""
    groups: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for (group, operation), total in group_totals(rank).items():
        groups[group].append((operation, total["calls"], total["bytes"]))
    if not groups:
        return "No collective moves anything on this rank."
    rows = [
        (
            group,
            unit.of(sum(moved for _, _, moved in parts)),
            f"{sum(calls for _, calls, _ in parts):,}",
            ", ".join(f"{operation} {calls:,}" for operation, calls, _ in sorted(parts, key=lambda part: -part[2])),
        )
        for group, parts in sorted(groups.items(), key=lambda item: -sum(moved for _, _, moved in item[1]))
    ]
    headers = ["group", f"collectives, {unit.name}", "calls", "which"]
    return table(headers, rows[:_MAX_NAMES], numbers=(1, 2)) + _left(rows)


def _left(rows: Sequence[object]) -> str:
    return f"\n\n{len(rows) - _MAX_NAMES} more are in the ledger." if len(rows) > _MAX_NAMES else ""


def _shown(
    name: str, draw: Callable[[float], bytes | None], places: Sequence[tuple[Path, float]], index: int
) -> list[str]:
    """Writes a picture and shows it. Its name is plain numbers: a ledger's own words have no place in a path."""
    file, shown = f"ledger-{index + 1}-{name}.svg", []
    for folder, width in places:
        picture = draw(width)
        if picture is not None:
            write_atomically(folder / file, picture)
            shown = [f"![{CAPTIONS[name]}]({file})"]
    return shown


def _labels(ranks: Sequence[RankLedger]) -> list[str]:
    """A rank by its stage, and by its number too where that does not tell it."""
    stages = [rank.stage for rank in ranks]
    is_clear = len(set(stages)) == len(stages)
    return [f"stage {rank.stage}" if is_clear else f"stage {rank.stage}, rank {rank.rank}" for rank in ranks]

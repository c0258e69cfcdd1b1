"""A cost ledger as a section of the report: what one step costs each rank, in tables and pictures.

A ledger may come from a stranger: its names are escaped, and what it may hold too much of is cut short, and said so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from bench.jsonfile import write_atomically
from bench.ledger import Ledger, RankLedger, component_totals, group_totals, phase_totals
from reports.markdown import table, text
from reports.plots import GREY, PALETTE, PHASE_COLOURS, plain, png

_PHASES = ("data", "forward", "recompute", "backward", "pipeline", "gradients", "optimizer", "report", "between")
_COMPONENTS = ("experts", "attention projections", "attention core", "head", "router", "embedding", "dispatch", "norms")
_GROUPS = ("tensor", "expert", "expert-tensor", "data", "expert-data", "pipeline", "embedding", "world")
# The phases that the report's plot of times has too are in its colours here.
_PHASE_COLOURS = {
    **PHASE_COLOURS,
    "recompute": PALETTE[7],
    "between": GREY,
}
_OTHERS = "others"
_LEAST_SHARE = 0.005  # of the longest bar: a thinner piece cannot be seen
_LETTER_SHARE = 0.012  # of it too: what a letter of a piece's figure takes

_MAX_RANKS = 16
_MAX_PANELS = 8
_MAX_NAMES = 40
_MAX_COLOURS = 8


@dataclass(frozen=True)
class _Unit:
    """What figures of one kind are told in."""

    name: str
    size: int

    def of(self, count: int) -> str:
        """The count in this unit with four digits, two where it is next to nothing."""
        value = count / self.size
        if 0 < value < 0.001:
            return f"{value:.2g}"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


_FLOP = (_Unit("TFLOP", 10**12), _Unit("GFLOP", 10**9), _Unit("MFLOP", 10**6))
_VECTOR = _FLOP[1:]
_BYTES = (_Unit("GB", 10**9), _Unit("MB", 10**6), _Unit("kB", 10**3))
_MEMORY = (_Unit("GiB", 2**30), _Unit("MiB", 2**20))


@dataclass(frozen=True)
class _Units:
    """One unit for each kind of figure, the same for all ranks, so that they compare by eye."""

    matrix: _Unit
    vector: _Unit
    traffic: _Unit
    collective: _Unit
    memory: _Unit


def section_of(ledger: Ledger, folder: Path | None, index: int = 0) -> list[str]:
    """The parts of a report, as Markdown, that tell of this ledger.

    Its plots are written into `folder`; with None there are none. `index` keeps two ledgers' plots apart.
    """
    ranks = ledger.ranks[:_MAX_RANKS]
    labels, units = _labels(ranks), _units(ledger)
    parts = [f"## Cost ledger: {text(ledger.recipe_name)}", *_warning(ledger), _facts(ledger, units.matrix)]
    if len(ledger.ranks) > len(ranks):
        parts.append(f"The first {len(ranks)} ranks follow; {len(ledger.ranks) - len(ranks)} more are in the ledger.")
    parts += [
        "### What a rank holds and does in a step",
        _overview(ranks, units),
        *_shown("flops", _flops_picture(ranks, labels, units), folder, index),
        *_shown("collectives", _collectives_picture(ranks, labels, units), folder, index),
        "### Memory at the peak",
        _memory(ranks, units.memory),
        *_shown("memory", _memory_picture(ranks, labels, units.memory), folder, index),
    ]
    if folder is not None and len(ranks) > _MAX_PANELS:
        parts.append(f"The picture has room for {_MAX_PANELS} of these ranks.")
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


# ---- tables --------------------------------------------------------------------------------------------


def _warning(ledger: Ledger) -> list[str]:
    """What makes every figure below too low, if anything does."""
    unknown = sorted(ledger.unknown_operators.items(), key=lambda item: (-item[1], item[0]))
    if not unknown:
        return []
    more = f" and {len(unknown) - _MAX_NAMES} more" if len(unknown) > _MAX_NAMES else ""
    names = ", ".join(f"{text(name)} ({calls:,} calls)" for name, calls in unknown[:_MAX_NAMES])
    return [f"**Too low: the FLOPs of {len(unknown)} unknown operator(s) are not counted:** {names}{more}."]


def _facts(ledger: Ledger, matrix: _Unit) -> str:
    state = "complete: every operator is known" if ledger.is_complete else "INCOMPLETE: the FLOPs are too low"
    stands_for = sum(rank.ranks_alike for rank in ledger.ranks)
    rows = [
        ("recipe", f"{ledger.recipe_name}, hash {ledger.recipe_hash}"),
        ("operators", state),
        ("ranks counted", f"{_listed(rank.rank for rank in ledger.ranks)}, standing for {stands_for:,}"),
        ("micro-batches a step", f"{ledger.num_micro_batches:,}"),
        ("routing", _routing(ledger.routing_shares)),
        (f"matrix FLOPs of {stands_for:,} ranks", f"{matrix.of(ledger.total('matrix_flops'))} {matrix.name} a step"),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(ledger.software.items()))),
    ]
    return table(["", "value"], rows + [("rationale", ledger.rationale)] * bool(ledger.rationale))


def _routing(shares: Sequence[float]) -> str:
    if not shares:
        return "no experts"
    if max(shares) - min(shares) < 1e-9:
        return f"even over {len(shares)} experts"
    if len(shares) > _MAX_RANKS:
        return f"uneven over {len(shares)} experts: {100 * min(shares):.3g} to {100 * max(shares):.3g} %"
    return f"uneven over {len(shares)} experts: {', '.join(f'{100 * share:.3g}' for share in shares)} %"


def _listed(numbers: Iterable[int]) -> str:
    values = [str(number) for number in numbers]
    more = f" and {len(values) - _MAX_RANKS} more" if len(values) > _MAX_RANKS else ""
    return ", ".join(values[:_MAX_RANKS]) + more


def _overview(ranks: Sequence[RankLedger], units: _Units) -> str:
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


def _memory(ranks: Sequence[RankLedger], unit: _Unit) -> str:
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


def _phases(rank: RankLedger, units: _Units) -> str:
    """What each phase costs the rank, and all of them."""
    totals = phase_totals(rank)
    names = _in_order(totals, _PHASES)
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


def _collectives(rank: RankLedger, unit: _Unit) -> str:
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


# ---- pictures ------------------------------------------------------------------------------------------


def _shown(name: str, picture: bytes | None, folder: Path | None, index: int) -> list[str]:
    """Writes a picture and shows it. Its name is plain numbers: a ledger's own words have no place in a path."""
    if picture is None or folder is None:
        return []
    file = f"ledger-{index + 1}-{name}.png"
    write_atomically(folder / file, picture)
    return [f"![{_CAPTIONS[name]}]({file})"]


_CAPTIONS = {
    "flops": "Matrix FLOPs by component",
    "collectives": "Collective bytes by group",
    "memory": "Memory over the step",
}


def _flops_picture(ranks: Sequence[RankLedger], labels: Sequence[str], units: _Units) -> bytes | None:
    bars = [{name: total["matrix_flops"] for name, total in component_totals(rank).items()} for rank in ranks]
    axis = f"{units.matrix.name} a rank and step"
    return _stacked(bars, labels, _COMPONENTS, units.matrix, (_CAPTIONS["flops"], axis))


def _collectives_picture(ranks: Sequence[RankLedger], labels: Sequence[str], units: _Units) -> bytes | None:
    bars = []
    for rank in ranks:
        moved: dict[str, int] = defaultdict(int)
        for row in rank.collectives:
            moved[row.group] += row.bytes
        bars.append(moved)
    axis = f"{units.collective.name} a rank and step"
    return _stacked(bars, labels, _GROUPS, units.collective, (_CAPTIONS["collectives"], axis))


def _stacked(
    bars: Sequence[Mapping[str, int]],
    labels: Sequence[str],
    known: Sequence[str],
    unit: _Unit,
    words: tuple[str, str],
) -> bytes | None:
    """One horizontal bar a rank, each piece with its figure where that fits; None where all is nothing."""
    longest = max(sum(bar.values()) for bar in bars)
    if not longest:
        return None
    named = _visible(bars, known, longest)
    colours = _coloured(named, dict(zip(known, PALETTE, strict=False)))

    def draw(axes: Axes) -> None:
        left = [0.0] * len(bars)
        for name, colour in colours.items():
            values = [_piece(bar, name, named) for bar in bars]
            widths = [value / unit.size for value in values]
            axes.barh(range(len(bars)), widths, left=left, color=colour, label=plain(name), height=0.7)
            for row, value in enumerate(values):
                figure = unit.of(value)
                if value > _LETTER_SHARE * len(figure) * longest:
                    middle, ink = left[row] + widths[row] / 2, _ink(colour)
                    axes.text(middle, row, figure, ha="center", va="center", fontsize=8, color=ink)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for row, bar in enumerate(bars):
            end = (left[row], row)
            total = unit.of(sum(bar.values()))
            axes.annotate(total, end, (4, 0), textcoords="offset points", va="center", fontsize=9, weight="bold")
        axes.set_yticks(range(len(bars)), labels)
        axes.set(title=words[0], xlabel=words[1], xlim=(0, 1.1 * longest / unit.size))
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.xaxis.set_major_formatter("{x:,.10g}")

    return png(draw, height=1.7 + 0.42 * len(bars))


def _visible(bars: Sequence[Mapping[str, int]], known: Sequence[str], longest: int) -> list[str]:
    """The names that get a colour of their own: those with the most, if they can be seen at all."""
    most = {name: max(bar.get(name, 0) for bar in bars) for bar in bars for name in bar}
    some = [name for name, value in most.items() if value]
    large = sorted(
        (name for name in some if most[name] >= _LEAST_SHARE * longest), key=lambda name: (-most[name], name)
    )
    kept = large[:_MAX_COLOURS]
    # One left-over may as well have its name.
    kept = some if len(some) == len(kept) + 1 else kept
    rest = [_OTHERS] if len(kept) < len(some) else []
    return [*_in_order(kept, known), *rest]


def _piece(bar: Mapping[str, int], name: str, named: Sequence[str]) -> int:
    if name in bar or name != _OTHERS:
        return bar.get(name, 0)
    return sum(value for each, value in bar.items() if each not in named)


def _memory_picture(ranks: Sequence[RankLedger], labels: Sequence[str], unit: _Unit) -> bytes | None:
    """One panel a rank on one scale, so that they compare by eye."""
    panels = [(rank, label) for rank, label in zip(ranks, labels, strict=True) if rank.timeline][:_MAX_PANELS]
    if not panels:
        return None
    often: dict[str, int] = defaultdict(int)
    for rank, _ in panels:
        for point in rank.timeline:
            often[point.phase] += 1
    frequent = sorted(often, key=lambda name: (name not in _PHASES, -often[name], name))
    named = frequent if len(frequent) <= len(_PHASES) + 1 else [*frequent[: len(_PHASES)], _OTHERS]
    colours = _coloured(_in_order(named, _PHASES), _PHASE_COLOURS)
    heights = [point.bytes for rank, _ in panels for point in rank.timeline]
    low = min(*heights, *(rank.memory.static_bytes for rank, _ in panels))
    room = max(max(heights) - low, 1)
    limits = (max(0.0, (low - 0.12 * room) / unit.size), (max(heights) + 0.25 * room) / unit.size)
    title = f"{_CAPTIONS['memory']}, above what stays between steps"
    draws = [partial(_timeline, rank=rank, label=label, unit=unit, colours=colours) for rank, label in panels]

    def last(axes: Axes) -> None:
        draws[-1](axes)
        axes.set_xlabel("stretches of the step, in order")

    return png(*draws[:-1], last, height=1.2 + 1.55 * len(panels), title=title, limits=limits)


def _timeline(axes: Axes, *, rank: RankLedger, label: str, unit: _Unit, colours: Mapping[str, str]) -> None:
    """Live memory above what stays between steps, in the colour of the phase, with the peak marked."""
    points = rank.timeline
    values = [point.bytes / unit.size for point in points]
    static = rank.memory.static_bytes / unit.size
    edges = range(len(points) + 1)
    phases = [point.phase if point.phase in colours else _OTHERS for point in points]
    for name, colour in colours.items():
        # Level with the static memory where it is another phase's turn: nothing is drawn there.
        heights = [value if phase == name else static for value, phase in zip(values, phases, strict=True)]
        axes.stairs(heights, edges, baseline=static, fill=True, color=colour, label=plain(name))
    axes.stairs(values, edges, baseline=None, color="#333333", lw=0.8)
    axes.axhline(static, color="black", ls="--", lw=1.2, label="static, between steps")
    peak = max(range(len(points)), key=lambda position: values[position])
    side = "left" if peak < len(points) / 3 else "right" if peak > 2 * len(points) / 3 else "center"
    axes.plot(peak + 0.5, values[peak], marker="v", color="black", ms=5, ls="none", clip_on=False, label="peak")
    figure = unit.of(points[peak].bytes)
    axes.annotate(
        figure, (peak + 0.5, values[peak]), (0, 5), textcoords="offset points", ha=side, fontsize=8, weight="bold"
    )
    where = f"in {plain(points[peak].phase)}, {plain(points[peak].component)}"
    words = f"{label}: peak {figure} {unit.name} {where}; static {unit.of(rank.memory.static_bytes)} {unit.name}"
    axes.set_title(words, loc="left", fontsize=9)
    axes.set(ylabel=unit.name, xlim=(0, len(points)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# ---- names, colours, units -----------------------------------------------------------------------------


def _labels(ranks: Sequence[RankLedger]) -> list[str]:
    """A rank by its stage, and by its number too where that does not tell it."""
    stages = [rank.stage for rank in ranks]
    is_clear = len(set(stages)) == len(stages)
    return [f"stage {rank.stage}" if is_clear else f"stage {rank.stage}, rank {rank.rank}" for rank in ranks]


def _in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The names that we know in our order, then the others in theirs."""
    given = list(names)
    return [name for name in known if name in given] + [name for name in given if name not in known]


def _coloured(names: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """A colour for each name: its own where we know it, so that two reports compare by eye."""
    taken = {known[name] for name in names if name in known}
    free = [colour for colour in PALETTE if colour not in taken] or [GREY]
    strangers = [name for name in names if name not in known and name != _OTHERS]
    given = {name: free[position % len(free)] for position, name in enumerate(strangers)}
    return {name: known.get(name) or given.get(name, GREY) for name in names}


def _ink(colour: str) -> str:
    """What can be read on that colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _units(ledger: Ledger) -> _Units:
    phases = [total for rank in ledger.ranks[:_MAX_RANKS] for total in phase_totals(rank).values()]
    matrix = [sum(row.matrix_flops for row in rank.costs) for rank in ledger.ranks]
    traffic = [max(total["bytes_read"], total["bytes_written"]) for total in phases]
    return _Units(
        matrix=_fitting(matrix, _FLOP),
        vector=_fitting([total["vector_flops"] for total in phases], _VECTOR),
        traffic=_fitting(traffic, _BYTES),
        collective=_fitting([sum(row.bytes for row in rank.collectives) for rank in ledger.ranks], _BYTES),
        memory=_fitting([rank.memory.peak_bytes for rank in ledger.ranks], _MEMORY),
    )


def _fitting(counts: Iterable[int], units: Sequence[_Unit]) -> _Unit:
    """The largest unit that the largest count fills, else the smallest."""
    most = max(counts, default=0)
    return next((unit for unit in units if most >= unit.size), units[-1])

"""Pictures of a cost ledger: FLOPs, collectives, memory over the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.ledger.schema import RankLedger, component_totals
from bench.records.phases import LEDGER_PHASES
from reports.formats import Unit
from reports.ledger_words import COMPONENTS, GROUPS, OTHERS, Units, in_order
from reports.palette import COMMUNICATION, COMPONENT, INK, OTHER, PAPER, PHASE_COLOURS, STRANGERS, letters_on, shades
from reports.picture import WIDE, picture, plain

# The phases that the report's plot of times has too are in its colours here.
_PHASE_COLOURS = {
    **PHASE_COLOURS,
    "recompute": shades(PHASE_COLOURS["forward"], 3)[1],
    "between": OTHER,
}
_LEAST_SHARE = 0.005  # of the longest bar: a thinner piece cannot be seen
_LETTER_SHARE = 0.012  # of it too: what a letter of a piece's figure takes
MAX_PANELS = 8
_MAX_COLOURS = 8
CAPTIONS = {
    "flops": "Matrix FLOPs by component",
    "collectives": "Collective bytes by group",
    "memory": "Memory over the step",
}


def flops_picture(ranks: Sequence[RankLedger], labels: Sequence[str], units: Units, width: float) -> bytes | None:
    bars = [{name: total["matrix_flops"] for name, total in component_totals(rank).items()} for rank in ranks]
    axis = f"{units.matrix.name} a rank and step"
    return _stacked(bars, labels, COMPONENTS, COMPONENT, units.matrix, (CAPTIONS["flops"], axis), width)


def collectives_picture(ranks: Sequence[RankLedger], labels: Sequence[str], units: Units, width: float) -> bytes | None:
    bars = []
    for rank in ranks:
        moved: dict[str, int] = defaultdict(int)
        for row in rank.collectives:
            moved[row.group] += row.bytes
        bars.append(moved)
    axis = f"{units.collective.name} a rank and step"
    return _stacked(bars, labels, GROUPS, COMMUNICATION, units.collective, (CAPTIONS["collectives"], axis), width)


def _stacked(
    bars: Sequence[Mapping[str, int]],
    labels: Sequence[str],
    known: Sequence[str],
    family: str,
    unit: Unit,
    words: tuple[str, str],
    width: float,
) -> bytes | None:
    """One horizontal bar a rank, in tones of `family`, each piece with its figure where that fits; None where all is
    nothing."""
    longest = max(sum(bar.values()) for bar in bars)
    if not longest:
        return None
    named = _visible(bars, known, longest)
    colours = _coloured(named, dict(zip(known, shades(family, len(known)), strict=True)))

    def draw(axes: Axes) -> None:
        left = [0.0] * len(bars)
        for name, colour in colours.items():
            values = [_piece(bar, name, named) for bar in bars]
            widths = [value / unit.size for value in values]
            axes.barh(
                range(len(bars)),
                widths,
                left=left,
                color=colour,
                edgecolor=PAPER,
                lw=0.8,
                label=plain(name),
                height=0.7,
            )
            for row, value in enumerate(values):
                figure = unit.of(value)
                if value > _LETTER_SHARE * WIDE / width * len(figure) * longest:
                    middle, ink = left[row] + widths[row] / 2, letters_on(colour)
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

    return picture(draw, height=1.7 + 0.42 * len(bars), width=width)


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
    rest = [OTHERS] if len(kept) < len(some) else []
    return [*in_order(kept, known), *rest]


def _piece(bar: Mapping[str, int], name: str, named: Sequence[str]) -> int:
    if name in bar or name != OTHERS:
        return bar.get(name, 0)
    return sum(value for each, value in bar.items() if each not in named)


def memory_picture(ranks: Sequence[RankLedger], labels: Sequence[str], unit: Unit, width: float) -> bytes | None:
    """One panel a rank on one scale, so that they compare by eye."""
    panels = [(rank, label) for rank, label in zip(ranks, labels, strict=True) if rank.timeline][:MAX_PANELS]
    if not panels:
        return None
    often: dict[str, int] = defaultdict(int)
    for rank, _ in panels:
        for point in rank.timeline:
            often[point.phase] += 1
    frequent = sorted(often, key=lambda name: (name not in LEDGER_PHASES, -often[name], name))
    named = frequent if len(frequent) <= len(LEDGER_PHASES) + 1 else [*frequent[: len(LEDGER_PHASES)], OTHERS]
    colours = _coloured(in_order(named, LEDGER_PHASES), _PHASE_COLOURS)
    heights = [point.bytes for rank, _ in panels for point in rank.timeline]
    low = min(*heights, *(rank.memory.static_bytes for rank, _ in panels))
    room = max(max(heights) - low, 1)
    limits = (max(0.0, (low - 0.12 * room) / unit.size), (max(heights) + 0.25 * room) / unit.size)
    title = f"{CAPTIONS['memory']}, above what stays between steps"
    draws = [partial(_timeline, rank=rank, label=label, unit=unit, colours=colours) for rank, label in panels]

    def last(axes: Axes) -> None:
        draws[-1](axes)
        axes.set_xlabel("stretches of the step, in order")

    return picture(*draws[:-1], last, height=1.2 + 1.55 * len(panels), title=title, limits=limits, width=width)


def _timeline(axes: Axes, *, rank: RankLedger, label: str, unit: Unit, colours: Mapping[str, str]) -> None:
    """Live memory above what stays between steps, in the colour of the phase, with the peak marked."""
    points = rank.timeline
    values = [point.bytes / unit.size for point in points]
    static = rank.memory.static_bytes / unit.size
    edges = range(len(points) + 1)
    phases = [point.phase if point.phase in colours else OTHERS for point in points]
    for name, colour in colours.items():
        # Level with the static memory where it is another phase's turn: nothing is drawn there.
        heights = [value if phase == name else static for value, phase in zip(values, phases, strict=True)]
        axes.stairs(heights, edges, baseline=static, fill=True, color=colour, label=plain(name))
    axes.stairs(values, edges, baseline=None, color=INK, lw=0.8)
    axes.axhline(static, color=INK, ls="--", lw=1.2, label="static, between steps")
    peak = max(range(len(points)), key=lambda position: values[position])
    side = "left" if peak < len(points) / 3 else "right" if peak > 2 * len(points) / 3 else "center"
    axes.plot(peak + 0.5, values[peak], marker="v", color=INK, ms=5, ls="none", clip_on=False, label="peak")
    figure = unit.of(points[peak].bytes)
    axes.annotate(
        figure, (peak + 0.5, values[peak]), (0, 5), textcoords="offset points", ha=side, fontsize=8, weight="bold"
    )
    where = f"in {plain(points[peak].phase)}, {plain(points[peak].component)}"
    words = f"{label}: peak {figure} {unit.name} {where}; static {unit.of(rank.memory.static_bytes)} {unit.name}"
    axes.set_title(words, fontsize=9)
    axes.set(ylabel=unit.name, xlim=(0, len(points)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _coloured(names: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """A colour for each name: its own where we know it, so that two reports compare by eye."""
    taken = {known[name] for name in names if name in known}
    free = [colour for colour in STRANGERS if colour not in taken] or [OTHER]
    strangers = [name for name in names if name not in known and name != OTHERS]
    given = {name: free[position % len(free)] for position, name in enumerate(strangers)}
    return {name: known.get(name) or given.get(name, OTHER) for name in names}

"""Records of one case side by side: what differs in where they come from, then their figures and how far apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.words import times
from reports.case import CaseResult
from reports.formats import Unit, bytes_unit, flops_unit, more, rate_unit, seconds_unit
from reports.markdown import anchored, details, table, text
from reports.tables.side_changes import Figure, change
from reports.tables.sides import MAX_SIDES, Side, sides_of, what_differs, what_is_equal

_MAX_PHASES = 12


def side_by_side(cases: Sequence[CaseResult]) -> list[str]:
    """A section for each case whose runs come from several programs, recipes, layouts or machines."""
    parts: list[str] = []
    for number, name in enumerate(dict.fromkeys(case.verdict.case for case in cases), 1):
        runs = [run for case in cases if case.verdict.case == name for run in case.measured]
        sides = sides_of(runs)
        if len(sides) > 1:
            heading = anchored(f"sides-{number}", f"## {text(name)}, side by side")
            parts += [heading, *_section(sides, len(runs))]
    return parts


def in_short(case: CaseResult) -> str | None:
    """How far apart the sides of a case's runs are; None where all are of one."""
    sides = sides_of(case.measured)
    if len(sides) < 2:
        return None
    if len(sides) == 2:
        return _sentence(*sides)
    found = [median(each.summary.tokens_per_second_per_processor for each in side.runs) for side in sides]
    unit = rate_unit(found)
    return f"{sides[0].name} to {sides[-1].name} ran at {unit.of(min(found))} to {unit.of(max(found))} tokens/s/p"


def _section(sides: Sequence[Side], runs: int) -> list[str]:
    sentences = "\n".join(f"- {_sentence(sides[0], side)}" for side in sides[1:])
    has_intervals = len(sides[0].runs) >= MIN_BASELINE_RUNS
    return [
        sentences + more(runs, sum(len(side.runs) for side in sides), f"runs, of more than {MAX_SIDES} sides"),
        "### What differs",
        what_differs(sides),
        details("The same on all sides", what_is_equal(sides)),
        "### Figures of all sides",
        _figures(sides),
        f"{_MEDIANS} {_INTERVALS if has_intervals else _FEW} {_JUDGED}",
    ]


_MEDIANS = "Medians over the runs of a side. A change is from A, and + is more of it."
_INTERVALS = (
    "In brackets is its 95 % confidence interval, each by itself. Between sides that ran in different sessions, or on "
    "different machines, it holds the level of a session."
)
_FEW = f"There are no intervals, as A has fewer than the {MIN_BASELINE_RUNS} runs that say how much runs vary."
_JUDGED = "This decides nothing: verdicts are against baselines."


def _sentence(first: Side, other: Side) -> str:
    """How many times slower or faster."""
    found = change(first, other, _SPEED)
    assert found is not None, "every run that measured something has a rate"
    slowdown = found.inverse
    if slowdown.interval is None:
        ratio = 1 + slowdown.percent / 100
        word = "slower" if ratio >= 1 else "faster"
        told = f"{max(ratio, 1 / ratio):.2f} times {word} than {first.name} in tokens/s/p"
        return f"{other.name} is {told}; so few runs do not tell how sure that is"
    low, high = slowdown.interval
    if low <= 0 <= high:
        return f"no difference of {other.name} from {first.name} is seen in tokens/s/p: {found.told}"
    return f"{other.name} is {times(slowdown.percent, low, high)} than {first.name} in tokens/s/p"


_SPEED = Figure("tokens/s/p", lambda each: each.tokens_per_second_per_processor, rate_unit, "rate")
_FIGURES = (
    _SPEED,
    Figure("{unit}/step, median", lambda each: each.median_step_seconds, seconds_unit, "time"),
    Figure("{unit}/step, mean", lambda each: each.mean_step_seconds, seconds_unit, "time"),
    Figure("{unit}/step, p95", lambda each: each.p95_step_seconds, seconds_unit, "time"),
    Figure("{unit}/p", lambda each: each.tflops_per_second_per_processor * 1e12, flops_unit, "rate"),
    Figure("MFU", lambda each: each.mfu, ".1%"),
    Figure("peak memory, {unit}", lambda each: each.peak.max_bytes or None, bytes_unit, "bytes"),
    Figure("pipeline bubble", lambda each: each.bubble_measured, ".1%"),
    Figure("communication, of a step", lambda each: each.communication_share, ".1%"),
    Figure("skew between ranks", lambda each: each.skew, "+.1%"),
    Figure("loss of the last step", lambda each: each.loss_last, ".5g"),
)


def _phase(name: str, unit: Unit) -> Figure:
    return Figure(
        f"{name}, {{unit}}",
        lambda each: each.phase_seconds.get(name, 0.0) if each.phase_seconds else None,
        lambda _: unit,
        "part",
    )


def _figures(sides: Sequence[Side]) -> str:
    phases = dict.fromkeys(name for side in sides for run in side.runs for name in run.summary.phase_seconds)
    headers = ["", "A", *(word for side in sides[1:] for word in (side.name, f"{side.name} from A"))]
    rows = [["runs", *_cells([str(len(side.runs)) for side in sides], [""] * (len(sides) - 1))]]
    every = [seconds for side in sides for run in side.runs for seconds in run.summary.phase_seconds.values()]
    parts = [_phase(name, seconds_unit(every)) for name in list(phases)[:_MAX_PHASES]]  # parts of one sum, in one unit
    for figure in (*_FIGURES, *parts):
        title, shown = figure.row(sides)
        changes = [change(sides[0], side, figure) for side in sides[1:]]
        if any(cell != "–" for cell in shown):
            rows.append([title, *_cells(shown, ["" if each is None else each.told for each in changes])])
    return table(headers, rows, numbers=range(1, len(headers))) + more(len(phases), _MAX_PHASES, "phases")


def _cells(values: Sequence[str], changes: Sequence[str]) -> list[str]:
    return [values[0], *(cell for pair in zip(values[1:], changes, strict=True) for cell in pair)]

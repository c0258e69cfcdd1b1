"""How far a figure of one side is from that of another, with an interval where runs say how much they vary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.judge.case_figures import over_runs, step_seconds
from bench.judge.difference import MIN_BASELINE_RUNS, Comparison
from bench.judge.evidence import weigh
from bench.judge.sessions import are_virtual, assumed_level, labels, stamp_of
from bench.judge.stats import Summary
from bench.judge.words import of_rate
from reports.formats import Unit
from reports.tables.sides import Side

_ALPHA = 0.025  # of each end: intervals of 95 %
# "time": a ratio, and more is slower. "rate": a ratio, and more is faster. "bytes": a ratio, the same in every session.
# "part": seconds as a share of the first side's step, as a phase may be absent. "shown": figures that are not compared.
Kind = Literal["time", "rate", "bytes", "part", "shown"]


@dataclass(frozen=True)
class Figure:
    """What is shown of every side, in one row. Where `form` finds a unit, `{unit}` in the title is its name."""

    title: str
    get: Callable[[Summary], float | None]
    form: str | Callable[[Iterable[float]], Unit]
    kind: Kind = "shown"

    def row(self, sides: Sequence[Side]) -> tuple[str, list[str]]:
        """The title and, of each side, the median over its runs; in one unit, with the same decimals."""
        medians = [over_runs((run.summary for run in side.runs), self.get) for side in sides]
        if isinstance(self.form, str):
            form = self.form
            return self.title, ["–" if each is None else f"{each:{form}}".replace("%", " %") for each in medians]
        unit = self.form([each for each in medians if each is not None])
        cells = ["–" if each is None else unit.of(each) for each in medians]
        return self.title.replace("{unit}", unit.name), cells

    def values(self, side: Side) -> list[float] | None:
        """Of every run; None unless every run has it."""
        found = [self.get(run.summary) for run in side.runs]
        known = [value for value in found if value is not None]
        return known if len(known) == len(found) else None


@dataclass(frozen=True)
class Change:
    """From the first side to another, + is more of it; no interval where the first has too few runs."""

    percent: float
    interval: tuple[float, float] | None
    unit: str = "%"

    @property
    def told(self) -> str:
        """For a cell."""
        ends = "" if self.interval is None else f" ({self.interval[0]:+.1f} to {self.interval[1]:+.1f})"
        return f"{self.percent:+.1f}{ends} {self.unit}"

    @property
    def inverse(self) -> Change:
        """Of the inverse of the figure: of the time where this is of a rate."""
        ends = None if self.interval is None else (of_rate(self.interval[1]), of_rate(self.interval[0]))
        return Change(of_rate(self.percent), ends, self.unit)


def change(first: Side, other: Side, figure: Figure) -> Change | None:
    """The change of a figure; None of one that is not compared, or that a run of either side lacks."""
    before, after = figure.values(first), figure.values(other)
    if figure.kind == "shown" or before is None or after is None:
        return None
    if figure.kind == "part":
        whole = step_seconds(run.summary for run in first.runs)
        found = _weighed(first, other, before, after, whole=whole)
        return found or Change(
            100 * (statistics.median(after) - statistics.median(before)) / whole, None, "% of a step"
        )
    if min(*before, *after) <= 0:
        return None
    if figure.kind == "rate":
        found = _weighed(first, other, [1 / value for value in before], [1 / value for value in after])
        found = None if found is None else found.inverse
    else:
        found = _weighed(first, other, before, after, has_sessions=figure.kind != "bytes")
    return found or Change(100 * (statistics.median(after) / statistics.median(before) - 1), None)


def _weighed(
    first: Side,
    other: Side,
    before: Sequence[float],
    after: Sequence[float],
    *,
    whole: float | None = None,
    has_sessions: bool = True,
) -> Change | None:
    """The mean change and its interval, of figures of which more is slower; across sessions with the level of one."""
    if len(before) < MIN_BASELINE_RUNS:
        return None
    sides = [[run.record for run in side.runs] for side in (first, other)]
    records = [record for side in sides for record in side]
    sessions = labels(*([stamp_of(record) for record in side] for side in sides))
    level = assumed_level(records[0].device.kind, None, are_virtual(record.host for record in records))
    evidence = weigh(
        Comparison(
            before=before,
            after=after,
            whole=whole,
            sessions=(sessions[: len(before)], sessions[len(before) :]),
            session_spread=level.spread if has_sessions else 0.0,
        ),
        _ALPHA,
    )
    unit = "%" if whole is None else "% of a step"
    return Change(evidence.change_percent, (evidence.low_percent, evidence.high_percent), unit)

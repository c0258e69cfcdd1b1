"""How often is the gate wrong in the order of time? Blocks of a series' runs against later blocks.

Random draws shuffle time away, and with it the drift of a machine and the level of a session, although a baseline is
always older than the runs that it judges. Here a block of runs is the baseline of a later one: within a session at
several distances, and each session against each later one. The gate judges each pair twice: as runs of one session,
which is what it would say if it took them for exchangeable, and as those of two, which is what it says when the
baseline is of another day. Pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.judge.evidence import MetricState
from bench.judge.metrics import STEP, Sessions
from bench.judge.sessions import assumed_spread
from bench.selftest.rules import OTHERS, THIS_GATE, Trace, this_gate, trace_of
from bench.selftest.series import Series

BLOCK = 5  # runs of each side
LATER = (0, 5, 10, 15, 20)  # runs between the two blocks
ORDERED_PERCENT = (0.0, 5.0, 10.0)
LAGS = (1, 2, 5)
AS_ONE, AS_TWO = f"{THIS_GATE}, as one session", f"{THIS_GATE}, as two sessions"
_MOST_PAIRS = 60  # of blocks equally far apart; of more, every second or third
_MOST_STARTS = 8  # of blocks in a session that are paired with each of another's

Judged = Literal["within a session", "between sessions"]
Starts = tuple[int, int]  # the first run of a block, and that of the later one


@dataclass(frozen=True)
class InOrder:
    """What a rule found in all pairs of blocks that are equally far apart."""

    condition: str
    rule: str
    where: Judged
    apart: str  # how many runs lie between, or which two sessions
    percent: float
    states: Mapping[MetricState, int]

    @property
    def pairs(self) -> int:
        return sum(self.states.values())


def in_order(series: Series) -> list[InOrder]:
    """Every rule on every distance and size of slowdown. Blocks overlap: the counts are not of independent trials."""
    spread = assumed_spread(series.device_kind, None, series.is_virtual)
    before = [trace_of(run, series.has_memory) for run in series.runs]
    found = []
    for percent in ORDERED_PERCENT:
        after = [trace_of(run, series.has_memory, "every step", percent) for run in series.runs]
        for (where, apart), pairs in block_pairs(list(series.sessions.values())).items():
            said: dict[str, list[MetricState]] = {}
            for theirs, ours in pairs:
                sides = before[theirs : theirs + BLOCK], after[ours : ours + BLOCK]
                for rule, state in _verdicts(*sides, spread).items():
                    said.setdefault(rule, []).append(state)
            found += [
                InOrder(series.condition, rule, where, apart, percent, Counter(states)) for rule, states in said.items()
            ]
    return found


def _verdicts(before: Sequence[Trace], after: Sequence[Trace], spread: float) -> dict[str, MetricState]:
    two = Sessions(["earlier"] * BLOCK, ["later"] * BLOCK, spread)
    found = {AS_ONE: this_gate(before, after), AS_TWO: this_gate(before, after, sessions=two)}
    return found | {name: rule.judge(before, after) for name, rule in OTHERS.items()}


def block_pairs(sessions: Sequence[Sequence[int]]) -> dict[tuple[Judged, str], list[Starts]]:
    """The pairs of blocks by how far they are apart; `sessions` are the places of each one's runs, one by one."""
    found: dict[tuple[Judged, str], list[Starts]] = {}
    for later in LATER:
        pairs = [
            (start, start + BLOCK + later)
            for places in sessions
            for start in _starts(places)
            if start + BLOCK + later in _starts(places)
        ]
        if pairs:
            found["within a session", f"{later} later"] = pairs[:: -(-len(pairs) // _MOST_PAIRS)]
    for place, theirs in enumerate(sessions):
        for other, ours in enumerate(sessions[place + 1 :], start=place + 1):
            pairs = [(before, after) for before in _few(_starts(theirs)) for after in _few(_starts(ours))]
            if pairs:
                found["between sessions", f"{place + 1} and {other + 1}"] = pairs
    return found


def _starts(places: Sequence[int]) -> range:
    return range(places[0], places[-1] - BLOCK + 2)


def _few(starts: range) -> range:
    return starts[:: max(1, -(-len(starts) // _MOST_STARTS))]


def autocorrelations(series: Series) -> dict[int, float]:
    """Of the runs' median steps, as logarithms, at each lag that the series is long enough for; runs must differ."""
    medians = _log_medians(series)
    pairs = {lag: (medians[:-lag], medians[lag:]) for lag in LAGS if len(medians) >= 2 * lag + BLOCK}
    return {lag: float(np.corrcoef(*pair)[0, 1]) for lag, pair in pairs.items() if all(map(np.ptp, pair))}


def spreads_percent(series: Series) -> tuple[float, float | None]:
    """Of the runs' median steps, one standard deviation: between runs of one session, and between the sessions' means.

    The second is None of one session. It is as the means vary, with what their runs explain left in.
    """
    medians = _log_medians(series)
    sides = [medians[list(places)] for places in series.sessions.values()]
    freedom = max(len(medians) - len(sides), 1)
    within = np.sqrt(sum(float(np.square(side - side.mean()).sum()) for side in sides) / freedom)
    between = float(np.std([side.mean() for side in sides], ddof=1)) if len(sides) > 1 else None
    return 100 * float(within), None if between is None else 100 * between


def _log_medians(series: Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.log([trace_of(run, has_memory=False).figures()[STEP] for run in series.runs])

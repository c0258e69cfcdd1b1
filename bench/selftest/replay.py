"""How often is the gate wrong on random draws? Judges real runs of an unchanged program, made slower, and counts.

A series is many runs of one unchanged program under one condition. Each trial draws a baseline's runs and some new runs
from it without replacement, slows the new ones down, and lets the gate judge all figures that the series has. Without a
slowdown, a fail is a false alarm. Three rules of other projects judge the same draws. A draw knows no order of time:
bench.selftest.ordered does. Pure functions: series in, shares with their confidence intervals out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy

from bench.judge.evidence import FAMILY_ERROR
from bench.selftest.rules import (
    FIVE_RUNS,
    KINDS,
    MINDSPEED,
    RULES,
    THIS_GATE,
    TWO_STAGES,
    Kind,
    Rule,
    Trace,
    trace_of,
)
from bench.selftest.series import Series

SLOWDOWNS_PERCENT = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
FEWER_PERCENT = (2.0, 5.0, 10.0)  # of all kinds but the first
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """How many of some trials, and where the true share lies (Clopper and Pearson, 95 %)."""

    count: int
    trials: int

    @property
    def value(self) -> float:
        return self.count / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        tail = (1 - _CONFIDENCE) / 2
        low = float(scipy.stats.beta.ppf(tail, self.count, self.trials - self.count + 1)) if self.count else 0.0
        missed = self.trials - self.count
        high = float(scipy.stats.beta.isf(tail, self.count + 1, missed)) if missed else 1.0
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Outcome:
    """What a rule found in the trials of one condition, kind and size of slowdown."""

    condition: str
    rule: str
    kind: Kind
    percent: float
    failed: Share
    inconclusive: Share


Draw = tuple[list[int], list[int]]  # the runs of a baseline, and new ones


@dataclass
class _Replayed:
    """A series' runs as rules see them, each reduced once."""

    series: Series
    known: dict[tuple[Kind, float], list[Trace]] = field(default_factory=dict)

    def traces(self, kind: Kind, percent: float) -> list[Trace]:
        key = (kind if percent else "every step", percent)
        if key not in self.known:
            self.known[key] = [trace_of(run, self.series.has_memory, kind, percent) for run in self.series.runs]
        return self.known[key]

    def ask(self, rule: Rule, kind: Kind, percent: float, draws: Sequence[Draw]) -> tuple[Share, Share]:
        """(failed, inconclusive)."""
        before, after = self.traces(kind, 0.0), self.traces(kind, percent)
        found = [
            rule.judge(
                [before[index] for index in theirs[: rule.baseline_runs]], [after[index] for index in ours[: rule.runs]]
            )
            for theirs, ours in draws
        ]
        return Share(found.count("fail"), len(found)), Share(found.count("inconclusive"), len(found))


def rules_for(runs: int) -> dict[str, Rule]:
    """Those whose trials so many runs suffice for."""
    return {name: rule for name, rule in RULES.items() if rule.needs <= runs}


def replay(series: Series, trials: int, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> list[Outcome]:
    """Every rule on every kind and size of slowdown that the series has the figures for, each on the same draws.

    Nothing of a series of several sessions, whose runs cannot be exchanged.
    """
    if len(series.sessions) > 1:
        return []
    replayed, random = _Replayed(series), np.random.default_rng(seed)
    orders = [random.permutation(len(series.runs)).tolist() for _ in range(trials)]
    outcomes, poor = [], _too_poor_for(series)
    for name, rule in rules_for(len(series.runs)).items():
        draws = [(order[: rule.baseline_runs], order[rule.baseline_runs : rule.needs]) for order in orders]
        for kind in (each for each in kinds if each not in poor):
            # nothing put in is the same of every kind
            for percent in SLOWDOWNS_PERCENT if kind == kinds[0] else FEWER_PERCENT:
                shares = replayed.ask(rule, kind, percent, draws)
                outcomes.append(Outcome(series.condition, name, kind, percent, *shares))
    return outcomes


def _too_poor_for(series: Series) -> dict[Kind, str]:
    found: dict[Kind, str] = {} if series.has_memory else {"memory growth": "the series has no memory recorded"}
    if len(series.runs[0].ranks) == 1:
        found["one rank"] = "the series has one rank only, so this would be every step"
    return found


def skipped(series: Series) -> list[str]:
    """What was skipped because the series lacks the data for it, in words."""
    if len(series.sessions) > 1:
        return ["skipped: random draws, as runs of several sessions cannot be exchanged"]
    count = len(series.runs)
    found = [
        f"skipped: {name} needs {rule.needs} runs per trial, and the series has {count}"
        for name, rule in RULES.items()
        if rule.needs > count
    ]
    return found + [f"skipped: {kind}, {why}" for kind, why in _too_poor_for(series).items()]


def held_back(series: Series, trials: int, seed: int = 0) -> list[Outcome]:
    """False alarms within each half of the runs, and of a baseline from the first half with new runs from the second.

    The last shows what a drifting machine does to a stored baseline: no rule for exchangeable runs holds there.
    """
    if len(series.sessions) > 1:
        return []
    replayed, random = _Replayed(series), np.random.default_rng(seed)
    half = len(series.runs) // 2
    first, second = np.arange(half), np.arange(half, len(series.runs))
    outcomes = []
    for where, theirs, ours in (
        ("first half", first, first),
        ("second half", second, second),
        ("across", first, second),
    ):
        for name in (FIVE_RUNS, TWO_STAGES, MINDSPEED):
            rule = RULES[name]
            if where != "across" and rule.needs > half or max(rule.runs, rule.baseline_runs) > half:
                continue
            draws = [_draw(random, theirs, ours, rule) for _ in range(trials)]
            outcomes.append(Outcome(where, name, "every step", 0.0, *replayed.ask(rule, "every step", 0.0, draws)))
    return outcomes


def _draw(random: np.random.Generator, theirs: npt.NDArray[np.int_], ours: npt.NDArray[np.int_], rule: Rule) -> Draw:
    before = random.permutation(theirs)[: rule.baseline_runs]
    return before.tolist(), random.permutation(np.setdiff1d(ours, before))[: rule.runs].tolist()


def is_sound(outcomes: Sequence[Outcome]) -> bool:
    """False where any of the gate's false alarms are significantly more frequent than stated, all tested together."""
    alarms = [each.failed for each in outcomes if each.percent == 0.0 and each.rule.startswith(THIS_GATE)]
    p_values = [float(scipy.stats.binom.sf(each.count - 1, each.trials, FAMILY_ERROR)) for each in alarms]
    return all(p_value * len(alarms) > 1 - _CONFIDENCE for p_value in p_values)

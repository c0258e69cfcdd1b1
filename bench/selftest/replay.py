"""How often is the gate wrong? Judges real runs of an unchanged program, with artificial slowdowns added, and counts.

A series is many runs of one unchanged program under one condition. Each trial draws a baseline's runs and some new runs
from it without replacement, slows the new ones down, and lets the gate judge all figures that the series has. Without a
slowdown, a fail is a false alarm. Three rules of other projects judge the same draws. Pure functions: series in, shares
with their confidence intervals out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR, MetricState, states
from bench.judge.metrics import STEP, family
from bench.judge.rule import deciding
from bench.judge.stats import find_steady
from bench.selftest.series import Floats, Series

Kind = Literal["every step", "one step in ten", "one rank", "memory growth"]

KINDS: tuple[Kind, ...] = ("every step", "one step in ten", "one rank", "memory growth")
SLOWDOWNS_PERCENT = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
FEWER_PERCENT = (2.0, 5.0, 10.0)  # of all kinds but the first
_CONFIDENCE = 0.95
_EVERY = 10  # of "one step in ten"


# ---- slower --------------------------------------------------------------------------------------------


def slowed(seconds_RS: Floats, percent: float, kind: Kind) -> Floats:
    """Step times of a run that is slower by that much; "one step in ten" is ten times as much on each of those."""
    factor_RS = np.ones_like(seconds_RS)
    if kind == "every step":
        factor_RS += percent / 100
    elif kind == "one step in ten":
        factor_RS[:, _EVERY - 1 :: _EVERY] += _EVERY * percent / 100
    elif kind == "one rank":
        # the rank that is slow makes the others wait: its extra time is added to every rank's step
        return np.asarray(seconds_RS + percent / 100 * seconds_RS[:1], dtype=np.float64)
    return seconds_RS * factor_RS


# ---- rules: figures of each run; (baseline's figures, new runs' figures) -> a state ------------------------

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """How a gate reduces a run's step times, how many runs it needs, and how it judges the figures of both samples."""

    figures: Callable[[Floats], Figures]
    runs: int
    judge: Callable[[Sequence[Figures], Sequence[Figures]], MetricState]
    baseline_runs: int = MIN_BASELINE_RUNS

    @property
    def needs(self) -> int:
        return self.baseline_runs + self.runs


def gate_figures(seconds_RS: Floats) -> Figures:
    """The figures of bench.judge.metrics that need step times alone: of the slowest rank, without the warm-up."""
    slowest_S = seconds_RS.max(axis=0)
    steady = slice(find_steady(slowest_S.tolist()).steady_from, None)
    return {
        STEP: float(np.median(slowest_S[steady])),
        "mean_step_seconds": float(slowest_S[steady].mean()),
        "skew_seconds": float(np.median((slowest_S - np.median(seconds_RS, axis=0))[steady])),
    }


def _mean_from_step_six(seconds_RS: Floats) -> Figures:
    return {STEP: float(seconds_RS.max(axis=0)[5:].mean())}


def _window_median(seconds_RS: Floats) -> Figures:
    """Steps 5 to 20, which is Megatron's window where there are no more than 25."""
    return {STEP: float(np.median(seconds_RS.max(axis=0)[5:21]))}


def _mean(seconds_RS: Floats) -> Figures:
    return {STEP: float(seconds_RS.max(axis=0).mean())}


def _this_gate(before: Sequence[Figures], after: Sequence[Figures], error: float = FAMILY_ERROR) -> MetricState:
    """The gate itself: every figure in one family, and its own rule of which makes the verdict."""
    found = deciding(list(states(family(before, after), error).items()))
    assert found is not None, "the time of a step is always judged"
    return found[1]


def _this_gate_in_two_stages(before: Sequence[Figures], after: Sequence[Figures]) -> MetricState:
    first = _this_gate(before, after[:MIN_BASELINE_RUNS], FIRST_STAGE_ERROR)
    return _this_gate(before, after, SECOND_STAGE_ERROR) if first == "inconclusive" else first


def _five_percent_slower(before: Sequence[Figures], after: Sequence[Figures]) -> MetricState:
    return "fail" if after[0][STEP] > 1.05 * before[0][STEP] else "pass"


def _five_percent_either_way(before: Sequence[Figures], after: Sequence[Figures]) -> MetricState:
    return "fail" if abs(after[0][STEP] - before[0][STEP]) > 0.05 * before[0][STEP] else "pass"


THIS_GATE = "this gate"
FIVE_RUNS, TWO_STAGES = f"{THIS_GATE}, 5 runs", f"{THIS_GATE}, 5 runs, 5 more on suspicion"

# the other projects' rules compare one run with one run
RULES: Mapping[str, Rule] = {
    f"{THIS_GATE}, 1 run": Rule(gate_figures, 1, _this_gate),
    f"{THIS_GATE}, 3 runs": Rule(gate_figures, 3, _this_gate),
    FIVE_RUNS: Rule(gate_figures, 5, _this_gate),
    TWO_STAGES: Rule(gate_figures, 10, _this_gate_in_two_stages),
    f"{THIS_GATE}, 10 runs a side": Rule(gate_figures, 10, _this_gate, baseline_runs=10),
    "MindSpeed's, mean of steps 6 to N": Rule(_mean_from_step_six, 1, _five_percent_slower, 1),
    "Megatron's, median of a window": Rule(_window_median, 1, _five_percent_either_way, 1),
    "pytest-benchmark's, mean:5%": Rule(_mean, 1, _five_percent_slower, 1),
}


# ---- counting ------------------------------------------------------------------------------------------


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
    """A series' runs with their figures, each reduced once."""

    series: Series
    known: dict[tuple[Callable[[Floats], Figures], Kind, float], list[Figures]] = field(default_factory=dict)

    def figures(self, reduce: Callable[[Floats], Figures], kind: Kind, percent: float) -> list[Figures]:
        key = (reduce, kind if percent else "every step", percent)
        if key not in self.known:
            memory = 1 + percent / 100 if kind == "memory growth" else 1.0
            self.known[key] = [
                {**reduce(slowed(run.seconds, percent, kind))}
                | ({"peak_bytes": memory * max(run.peak_bytes)} if self.series.has_memory else {})
                for run in self.series.runs
            ]
        return self.known[key]

    def ask(self, rule: Rule, kind: Kind, percent: float, draws: Sequence[Draw]) -> tuple[Share, Share]:
        """(failed, inconclusive)."""
        before, after = self.figures(rule.figures, kind, 0.0), self.figures(rule.figures, kind, percent)
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
    """Every rule on every kind and size of slowdown that the series has the figures for, each on the same draws."""
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
    replayed, random = _Replayed(series), np.random.default_rng(seed)
    half = len(series.runs) // 2
    first, second = np.arange(half), np.arange(half, len(series.runs))
    outcomes = []
    for where, theirs, ours in (
        ("first half", first, first),
        ("second half", second, second),
        ("across", first, second),
    ):
        for name in (FIVE_RUNS, TWO_STAGES, "MindSpeed's, mean of steps 6 to N"):
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
    """False where the gate's false alarms are significantly more frequent than stated."""
    alarms = [each.failed for each in outcomes if each.percent == 0.0 and each.rule.startswith(THIS_GATE)]
    return all(share.interval[0] <= FAMILY_ERROR for share in alarms)

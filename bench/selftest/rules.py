"""What judges in a self-test: this gate, and three rules of other projects; and what is slow in the runs they judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR, MetricState, states
from bench.judge.metrics import Sessions, family, speed_figures
from bench.judge.rule import deciding
from bench.judge.stats import find_steady
from bench.selftest.series import Floats, Run

Kind = Literal["every step", "one step in ten", "one rank", "memory growth"]
Figures = Mapping[str, float]

KINDS: tuple[Kind, ...] = ("every step", "one step in ten", "one rank", "memory growth")
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


@dataclass
class Trace:
    """What rules see of a run: step times [ranks, steps], and its peak where memory is judged."""

    step_seconds: Floats
    peak_bytes: float | None = None
    _by_cut: dict[int, Figures] = field(default_factory=dict)

    @cached_property
    def slowest(self) -> Floats:
        """Of each step, the time of its slowest rank."""
        return np.asarray(self.step_seconds.max(axis=0), dtype=np.float64)

    @cached_property
    def steady_from(self) -> int:
        """The first step after the warm-up."""
        return find_steady(self.slowest.tolist()).steady_from

    @cached_property
    def _skew_seconds(self) -> float:
        over = self.slowest - np.median(self.step_seconds, axis=0)
        return float(np.median(over[self.steady_from :]))

    @cached_property
    def mean_from_step_six(self) -> float:
        """MindSpeed's figure."""
        return float(self.slowest[5:].mean())

    @cached_property
    def window_median(self) -> float:
        """Megatron's figure: of steps 5 to 20, which is its window where there are no more than 25."""
        return float(np.median(self.slowest[5:21]))

    @cached_property
    def mean(self) -> float:
        """pytest-benchmark's figure."""
        return float(self.slowest.mean())

    def figures(self, cut: int | None = None) -> Figures:
        """What the gate judges of it and step times can show; of speed, without that many first steps."""
        cut = self.steady_from if cut is None else cut
        if cut not in self._by_cut:
            memory = {} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes}
            speed = speed_figures(self.slowest[cut:].tolist())
            self._by_cut[cut] = speed | {"skew_seconds": self._skew_seconds} | memory
        return self._by_cut[cut]


def trace_of(run: Run, has_memory: bool, kind: Kind = "every step", percent: float = 0.0) -> Trace:
    """A recorded run, made slower or larger."""
    peak = None
    if has_memory:
        peak = max(run.peak_bytes) * (1 + percent / 100 if kind == "memory growth" else 1.0)
    return Trace(slowed(run.seconds, percent, kind), peak)


# ---- rules ---------------------------------------------------------------------------------------------

Traces = Sequence[Trace]


def verdict_of(
    before: Sequence[Figures], after: Sequence[Figures], error: float = FAMILY_ERROR, sessions: Sessions | None = None
) -> MetricState:
    """The gate's own: every figure in one family, and its own rule of which makes the verdict."""
    found = deciding(list(states(family(before, after, sessions=sessions), error).items()))
    assert found is not None, "the time of a step is always judged"
    return found[1]


def this_gate(
    before: Traces, after: Traces, error: float = FAMILY_ERROR, sessions: Sessions | None = None
) -> MetricState:
    """Both sides without the same first steps, as the gate cuts them: the longest warm-up of all runs."""
    cut = max(trace.steady_from for trace in (*before, *after))
    return verdict_of(
        [trace.figures(cut) for trace in before], [trace.figures(cut) for trace in after], error, sessions
    )


def _this_gate_in_two_stages(before: Traces, after: Traces) -> MetricState:
    first = this_gate(before, after[:MIN_BASELINE_RUNS], FIRST_STAGE_ERROR)
    return this_gate(before, after, SECOND_STAGE_ERROR) if first == "inconclusive" else first


def _five_percent_slower(before: float, after: float) -> MetricState:
    return "fail" if after > 1.05 * before else "pass"


def _mindspeed(before: Traces, after: Traces) -> MetricState:
    return _five_percent_slower(before[0].mean_from_step_six, after[0].mean_from_step_six)


def _pytest_benchmark(before: Traces, after: Traces) -> MetricState:
    return _five_percent_slower(before[0].mean, after[0].mean)


def _megatron(before: Traces, after: Traces) -> MetricState:
    """Five percent either way fails."""
    change = abs(after[0].window_median - before[0].window_median)
    return "fail" if change > 0.05 * before[0].window_median else "pass"


@dataclass(frozen=True)
class Rule:
    """How a gate judges the runs of two samples, and how many of each it needs."""

    judge: Callable[[Traces, Traces], MetricState]
    runs: int
    baseline_runs: int = MIN_BASELINE_RUNS

    @property
    def needs(self) -> int:
        """Runs of both sides."""
        return self.baseline_runs + self.runs


THIS_GATE = "this gate"
FIVE_RUNS, TWO_STAGES = f"{THIS_GATE}, 5 runs", f"{THIS_GATE}, 5 runs, 5 more on suspicion"
# the other projects' rules compare one run with one run
MINDSPEED = "MindSpeed's, mean of steps 6 to N"
OTHERS: Mapping[str, Rule] = {
    MINDSPEED: Rule(_mindspeed, 1, 1),
    "Megatron's, median of a window": Rule(_megatron, 1, 1),
    "pytest-benchmark's, mean:5%": Rule(_pytest_benchmark, 1, 1),
}
RULES: Mapping[str, Rule] = {
    f"{THIS_GATE}, 1 run": Rule(this_gate, 1),
    f"{THIS_GATE}, 3 runs": Rule(this_gate, 3),
    FIVE_RUNS: Rule(this_gate, 5),
    TWO_STAGES: Rule(_this_gate_in_two_stages, 10),
    f"{THIS_GATE}, 10 runs a side": Rule(this_gate, 10, baseline_runs=10),
    **OTHERS,
}

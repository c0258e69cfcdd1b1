"""How often is the gate wrong across sessions of a known level? Simulated: run noise and session levels, both normal.

A baseline has a few sessions, the new runs are of one more. Every session has a level of its own, every run of it
another. Pure functions: the same seed gives the same shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.judge.evidence import MetricState
from bench.judge.metrics import LOST, MEAN, QUARTILE, SPEED, STEP, Sessions
from bench.judge.sessions import ASSUMED_PERCENT
from bench.selftest.ordered import BLOCK
from bench.selftest.replay import Share
from bench.selftest.rules import Figures, verdict_of
from bench.selftest.series import Floats

SESSION_PERCENT = (0.5, 1.2, 3.0)
RUN_PERCENT = (0.3, 1.0)
LEVEL_SLOWDOWNS_PERCENT = (0.0, 5.0, 10.0)
STEPS = 20
_STEP_SHARE = 0.5  # of the run noise: how much the steps of a run vary
ASSUMED = ASSUMED_PERCENT["npu"]


@dataclass(frozen=True)
class Plan:
    """The runs of a baseline by session; the new ones are five of one more."""

    sessions: int
    runs: int  # of each

    def __str__(self) -> str:
        if self.sessions == 1:
            return f"1 session of {self.runs} runs"
        return f"{self.sessions} sessions of {self.runs} runs"


PLANS = (Plan(1, 5), Plan(3, 2), Plan(5, 2), Plan(10, 2))


@dataclass(frozen=True)
class Level:
    """What the gate says of simulated runs, by the size of the slowdown in percent."""

    plan: Plan
    session_percent: float
    run_percent: float
    assumed_percent: float
    states: Mapping[float, Mapping[MetricState, int]]

    def share(self, percent: float, state: MetricState) -> Share:
        return Share(self.states[percent].get(state, 0), sum(self.states[percent].values()))


def simulate(
    plan: Plan,
    session_percent: float,
    run_percent: float,
    trials: int,
    seed: int = 0,
    assumed_percent: float = ASSUMED,
    percents: tuple[float, ...] = LEVEL_SLOWDOWNS_PERCENT,
) -> Level:
    """The verdicts on that many baselines and new sessions; each slowdown on the same ones."""
    random = np.random.default_rng(seed)
    before = _traces(random, trials, plan.sessions, plan.runs, session_percent, run_percent)
    after = _traces(random, trials, 1, BLOCK, session_percent, run_percent)
    names = [f"session {place // plan.runs}" for place in range(plan.sessions * plan.runs)]
    sessions = Sessions(names, ["new"] * BLOCK, float(np.log1p(assumed_percent / 100)))
    old = _figures(before)
    states = {}
    for percent in percents:
        new = _figures(after * (1 + percent / 100))
        states[percent] = Counter(
            verdict_of(theirs, ours, sessions=sessions) for theirs, ours in zip(old, new, strict=True)
        )
    return Level(plan, session_percent, run_percent, assumed_percent, states)


def _traces(
    random: np.random.Generator, trials: int, sessions: int, runs: int, session_percent: float, run_percent: float
) -> Floats:
    """Step times around a second [trials, runs, steps]."""
    levels = random.normal(0.0, session_percent / 100, (trials, sessions, 1, 1))
    of_runs = random.normal(0.0, run_percent / 100, (trials, sessions, runs, 1))
    of_steps = random.normal(0.0, _STEP_SHARE * run_percent / 100, (trials, sessions, runs, STEPS))
    return np.asarray(np.exp(levels + of_runs + of_steps).reshape(trials, sessions * runs, STEPS), dtype=np.float64)


def _figures(seconds: Floats) -> list[list[Figures]]:
    return [[figures_of_speed(run) for run in runs] for runs in speed_of(seconds).tolist()]


def figures_of_speed(speed: Sequence[float]) -> Figures:
    """By name, of one run's in the order of SPEED."""
    found = dict(zip(SPEED, speed, strict=True))
    return found | {LOST: found[MEAN] - found[STEP]}


def speed_of(seconds: Floats) -> Floats:
    """bench.judge.metrics.speed_figures of many runs [..., steps], in the order of SPEED; without the clock's tick."""
    quartile, median = np.percentile(seconds, [25, 50], axis=-1)
    by_name = {STEP: median, MEAN: seconds.mean(axis=-1), QUARTILE: quartile}
    return np.stack([by_name[name] for name in SPEED], axis=-1)


def levels(trials: int, seed: int = 0) -> list[Level]:
    """All levels, noises and baselines; a level of 3 % once more with 3 % assumed, as `--session-spread 3` does."""
    settings = [(session, ASSUMED) for session in SESSION_PERCENT] + [(3.0, 3.0)]
    return [
        simulate(plan, session, run, trials, seed, assumed)
        for session, assumed in settings
        for run in RUN_PERCENT
        for plan in PLANS
    ]

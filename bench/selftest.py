"""How often is the gate wrong? Replays recorded noise through the real gate with slowdowns put in, and counts.

A series is many runs of one unchanged program under one condition. Each trial draws a baseline's runs and some new ones
from it, without putting back, slows the new ones down, and asks the gate; with no slowdown a fail is a false alarm.
Three rules of others are asked the same. Pure functions: series in, shares with their confidence intervals out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats as distributions
from tabulate import tabulate

from bench.evidence import FAMILY_ERROR, MIN_BASELINE_RUNS, decide
from bench.jsonfile import read_model, write_model
from bench.record import Name, Record, Strict
from bench.stats import find_steady

Floats = npt.NDArray[np.float64]
Kind = Literal["every step", "one step in ten", "one rank"]

KINDS: tuple[Kind, ...] = ("every step", "one step in ten", "one rank")
SLOWDOWNS_PERCENT = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
TOLERANCE_PERCENT = 5.0
MAX_SERIES_BYTES = 16 << 20
FOLDER = Path(__file__).resolve().parents[1] / "baselines" / "noise"

_CONFIDENCE = 0.95
_EVERY = 10  # of "one step in ten"

Microseconds = Annotated[int, Field(gt=0, lt=10**12)]


class Run(Strict):
    """One run: microseconds of each step on each rank."""

    ranks: Annotated[list[Annotated[list[Microseconds], Field(min_length=1, max_length=10_000)]], Field(min_length=1)]

    @property
    def seconds(self) -> Floats:
        """[ranks, steps]."""
        return np.array(self.ranks, dtype=np.float64) / 1e6


class Series(Strict):
    """Runs of one unchanged program, one after the other, under one condition."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    condition: Name
    recipe_name: Name
    recipe_hash: Name
    device_name: Name
    runs: Annotated[list[Run], Field(min_length=2 * MIN_BASELINE_RUNS, max_length=1000)]


def series_of(condition: str, records: Sequence[Record]) -> Series:
    """The series that these records make, in the order of time."""
    ordered = sorted(records, key=lambda record: record.created_at)
    if not ordered:
        raise ValueError("there are no records to make a series of")
    first = ordered[0]
    if any((each.recipe.hash, each.device.name) != (first.recipe.hash, first.device.name) for each in ordered):
        raise ValueError("records of a series must be of one recipe and one device")
    return Series(
        condition=condition,
        recipe_name=first.recipe.name,
        recipe_hash=first.recipe.hash,
        device_name=first.device.name,
        runs=[
            Run(ranks=[[max(1, round(1e6 * each)) for each in rank.step_seconds] for rank in record.ranks])
            for record in ordered
        ],
    )


def read_series(path: Path) -> Series:
    """A stored series; a ValueError of one line says what is wrong with the file."""
    return read_model(path, Series, max_bytes=MAX_SERIES_BYTES)


def write_series(path: Path, series: Series) -> None:
    """Atomically."""
    write_model(path, series)


# ---- slower --------------------------------------------------------------------------------------------


def slowed(seconds_RS: Floats, percent: float, kind: Kind) -> Floats:
    """Step times of a run that is slower by that much; "one step in ten" is ten times as much on each of those."""
    factor_RS = np.ones_like(seconds_RS)
    if kind == "every step":
        factor_RS += percent / 100
    elif kind == "one step in ten":
        factor_RS[:, _EVERY - 1 :: _EVERY] += _EVERY * percent / 100
    else:
        # the rank that is slow makes the others wait: its extra time is added to every rank's step
        return np.asarray(seconds_RS + percent / 100 * seconds_RS[:1], dtype=np.float64)
    return seconds_RS * factor_RS


# ---- rules: a figure of each run; (baseline's figures, new runs' figures) -> a state -----------------------


@dataclass(frozen=True)
class Rule:
    """How a gate reduces a run, how many new runs it takes, and what it says of both sides' figures."""

    figure: Callable[[Floats], float]
    runs: int
    judge: Callable[[Sequence[float], Sequence[float]], str]


def steady_median(seconds_RS: Floats) -> float:
    """As bench.stats has it: the slowest rank's steps, the warm-up cut, the median."""
    slowest_S = seconds_RS.max(axis=0)
    return float(np.median(slowest_S[find_steady(slowest_S.tolist()).steady_from :]))


def _mean_from_step_six(seconds_RS: Floats) -> float:
    return float(seconds_RS.max(axis=0)[5:].mean())


def _window_median(seconds_RS: Floats) -> float:
    """Steps 5 to 20, which is Megatron's window where there are no more than 25."""
    return float(np.median(seconds_RS.max(axis=0)[5:21]))


def _mean(seconds_RS: Floats) -> float:
    return float(seconds_RS.max(axis=0).mean())


def _ours(before: Sequence[float], after: Sequence[float]) -> str:
    """The gate itself."""
    limit = 100 * TOLERANCE_PERCENT / (100 - TOLERANCE_PERCENT)
    return decide({"step_seconds": (before, after)}, limit)["step_seconds"].state


def _five_percent_slower(before: Sequence[float], after: Sequence[float]) -> str:
    return "fail" if after[0] > 1.05 * before[0] else "pass"


def _five_percent_either_way(before: Sequence[float], after: Sequence[float]) -> str:
    return "fail" if abs(after[0] - before[0]) > 0.05 * before[0] else "pass"


# the others' compare one run with one run
RULES: Mapping[str, Rule] = {
    "this gate, 1 run": Rule(steady_median, 1, _ours),
    "this gate, 3 runs": Rule(steady_median, 3, _ours),
    "this gate, 5 runs": Rule(steady_median, 5, _ours),
    "MindSpeed's, mean of steps 6 to N": Rule(_mean_from_step_six, 1, _five_percent_slower),
    "Megatron's, median of a window": Rule(_window_median, 1, _five_percent_either_way),
    "pytest-benchmark's, mean:5%": Rule(_mean, 1, _five_percent_slower),
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
        low = float(distributions.beta.ppf(tail, self.count, self.trials - self.count + 1)) if self.count else 0.0
        missed = self.trials - self.count
        high = float(distributions.beta.isf(tail, self.count + 1, missed)) if missed else 1.0
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Outcome:
    """What a rule said over the trials of one condition, kind and size of slowdown."""

    condition: str
    rule: str
    kind: Kind
    percent: float
    failed: Share
    inconclusive: Share


def replay(series: Series, trials: int, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> list[Outcome]:
    """Every rule on every kind and size of slowdown, each on the same draws of runs."""
    runs = [run.seconds for run in series.runs]
    random = np.random.default_rng(seed)
    most = max(rule.runs for rule in RULES.values())
    if len(runs) < MIN_BASELINE_RUNS + most:
        raise ValueError(
            f"series {series.condition} has {len(runs)} runs, a trial draws {MIN_BASELINE_RUNS + most}: record more"
        )
    draws = [random.permutation(len(runs))[: MIN_BASELINE_RUNS + most] for _ in range(trials)]
    before = {name: [rule.figure(run) for run in runs] for name, rule in RULES.items()}
    outcomes = []
    for kind in kinds:
        for percent in SLOWDOWNS_PERCENT:
            if percent == 0.0 and kind != kinds[0]:
                continue  # nothing put in is the same of every kind
            slow = [slowed(run, percent, kind) for run in runs]
            for name, rule in RULES.items():
                after = [rule.figure(run) for run in slow]
                said = [
                    rule.judge(
                        [before[name][index] for index in draw[:MIN_BASELINE_RUNS]],
                        [after[index] for index in draw[MIN_BASELINE_RUNS:][: rule.runs]],
                    )
                    for draw in draws
                ]
                shares = (Share(said.count(state), trials) for state in ("fail", "inconclusive"))
                outcomes.append(Outcome(series.condition, name, kind, percent, *shares))
    return outcomes


def spread_percent(series: Series) -> float:
    """Between-run standard deviation of the runs' medians."""
    return 100 * float(np.log([steady_median(run.seconds) for run in series.runs]).std(ddof=1))


def table(outcomes: Sequence[Outcome], series: Series) -> str:
    """Markdown: false alarms first, then what each rule finds of each slowdown."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in outcomes):
        for rule in RULES:
            of_rule = {each.percent: each for each in outcomes if each.rule == rule and each.kind == kind}
            alarms = next(each for each in outcomes if each.rule == rule and each.percent == 0.0)
            found = [f"{of_rule[p].failed.value:.0%}" for p in SLOWDOWNS_PERCENT if p]
            rows.append((kind, rule, str(alarms.failed), f"{alarms.inconclusive.value:.0%}", *found))
    headers = ["slower on", "rule", "false alarms", "inconclusive", *(f"{p:g} % found" for p in SLOWDOWNS_PERCENT if p)]
    title = (
        f"{series.condition}: {len(series.runs)} runs of {series.recipe_name} on {series.device_name}, between-run "
        f"variation {spread_percent(series):.2f} %, {outcomes[0].failed.trials} trials"
    )
    return f"{title}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


def is_sound(outcomes: Sequence[Outcome]) -> bool:
    """False where the gate's false alarms are surely above what it states."""
    alarms = [each.failed for each in outcomes if each.percent == 0.0 and each.rule.startswith("this gate")]
    return all(share.interval[0] <= FAMILY_ERROR for share in alarms)

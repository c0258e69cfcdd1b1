"""How often is the gate wrong? Replays recorded noise through the real gate with slowdowns put in, and counts.

A series is many runs of one unchanged program under one condition. Each trial draws a baseline's runs and some new ones
from it, without putting back, slows the new ones down, and asks the gate about all figures that the series has; with no
slowdown a fail is a false alarm. Three rules of others are asked the same. Pure functions: series in, shares with their
confidence intervals out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import stats as distributions
from tabulate import tabulate

from bench.evidence import FAMILY_ERROR, FIRST_LOOK, MIN_BASELINE_RUNS, states
from bench.jsonfile import read_model, write_model
from bench.metrics import STEP, deciding, family
from bench.record import Name, Positive, Record, Strict
from bench.stats import find_steady

Floats = npt.NDArray[np.float64]
Kind = Literal["every step", "one step in ten", "one rank", "memory growth"]

KINDS: tuple[Kind, ...] = ("every step", "one step in ten", "one rank", "memory growth")
SLOWDOWNS_PERCENT = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
FEWER_PERCENT = (2.0, 5.0, 10.0)  # of all kinds but the first
MAX_SERIES_BYTES = 16 << 20
MAX_RUNS = 1000
FOLDER = Path(__file__).resolve().parents[1] / "baselines" / "noise"

_CONFIDENCE = 0.95
_EVERY = 10  # of "one step in ten"

Microseconds = Annotated[int, Field(gt=0, lt=10**12)]


class Run(Strict):
    """One run: microseconds of each step on each rank, and each rank's peak bytes where they were recorded."""

    ranks: Annotated[list[Annotated[list[Microseconds], Field(min_length=1, max_length=10_000)]], Field(min_length=1)]
    peak_bytes: list[Positive] = []

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        if self.peak_bytes and len(self.peak_bytes) != len(self.ranks):
            raise ValueError(f"peak_bytes holds {len(self.peak_bytes)} numbers for {len(self.ranks)} ranks")
        return self

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
    runs: Annotated[list[Run], Field(min_length=2 * MIN_BASELINE_RUNS, max_length=MAX_RUNS)]

    @property
    def has_memory(self) -> bool:
        return all(run.peak_bytes for run in self.runs)


def series_of(condition: str, records: Sequence[Record]) -> Series:
    """The series that these records make, in the order of time."""
    ordered = sorted(records, key=lambda record: record.created_at)
    if not ordered:
        raise ValueError("there are no records to make a series of")
    first = ordered[0]
    if any((each.recipe.hash, each.device.name) != (first.recipe.hash, first.device.name) for each in ordered):
        raise ValueError("records of a series must be of one recipe and one device")
    has_memory = all(rank.peak_bytes for record in ordered for rank in record.ranks)
    return Series(
        condition=condition,
        recipe_name=first.recipe.name,
        recipe_hash=first.recipe.hash,
        device_name=first.device.name,
        runs=[
            Run(
                ranks=[[max(1, round(1e6 * each)) for each in rank.step_seconds] for rank in record.ranks],
                peak_bytes=[rank.peak_bytes for rank in record.ranks] if has_memory else [],
            )
            for record in ordered
        ],
    )


def read_series(path: Path) -> Series:
    """A stored series; a ValueError of one line says what is wrong with the file."""
    return read_model(path, Series, max_bytes=MAX_SERIES_BYTES)


def write_series(path: Path, series: Series) -> None:
    """Atomically."""
    write_model(path, series)


def simulated(spread_percent: float, seed: int = 0) -> Series:
    """Invented, and never stored: runs on a machine so quiet that they vary by that much, normally."""
    random = np.random.default_rng(seed)
    step_spread, ranks, steps = spread_percent / 200, 4, 30
    levels = np.exp(random.normal(0.0, spread_percent / 100, MAX_RUNS))
    runs = 1e6 * levels[:, None, None] * np.exp(random.normal(0.0, step_spread, (MAX_RUNS, ranks, steps)))
    return Series(
        condition=f"simulated, normal, {spread_percent:g} %",
        recipe_name="nothing",
        recipe_hash="none",
        device_name="no machine",
        runs=[Run(ranks=run.astype(int).tolist()) for run in runs],
    )


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
Said = Literal["pass", "fail", "improved", "inconclusive"]


@dataclass(frozen=True)
class Rule:
    """How a gate reduces a run's step times, how many runs it takes, and what it says of both sides' figures."""

    figures: Callable[[Floats], Figures]
    runs: int
    judge: Callable[[Sequence[Figures], Sequence[Figures]], Said]
    baseline_runs: int = MIN_BASELINE_RUNS

    @property
    def needs(self) -> int:
        return self.baseline_runs + self.runs


def gate_figures(seconds_RS: Floats) -> Figures:
    """What bench.metrics would have of a run's step times alone: the slowest rank's, the warm-up cut."""
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


def _ours(before: Sequence[Figures], after: Sequence[Figures], error: float = FAMILY_ERROR) -> Said:
    """The gate itself: every figure in one family, of which any that fails is enough."""
    found = states(family(before, after), error)
    return found[deciding(found)]


def _ours_in_two_looks(before: Sequence[Figures], after: Sequence[Figures]) -> Said:
    first = _ours(before, after[:MIN_BASELINE_RUNS], FAMILY_ERROR * FIRST_LOOK)
    return _ours(before, after, FAMILY_ERROR * (1 - FIRST_LOOK)) if first == "inconclusive" else first


def _five_percent_slower(before: Sequence[Figures], after: Sequence[Figures]) -> Said:
    return "fail" if after[0][STEP] > 1.05 * before[0][STEP] else "pass"


def _five_percent_either_way(before: Sequence[Figures], after: Sequence[Figures]) -> Said:
    return "fail" if abs(after[0][STEP] - before[0][STEP]) > 0.05 * before[0][STEP] else "pass"


OURS = "this gate"
FIVE_RUNS, TWO_LOOKS = f"{OURS}, 5 runs", f"{OURS}, 5 runs, 5 more on suspicion"

# the others' compare one run with one run
RULES: Mapping[str, Rule] = {
    f"{OURS}, 1 run": Rule(gate_figures, 1, _ours),
    f"{OURS}, 3 runs": Rule(gate_figures, 3, _ours),
    FIVE_RUNS: Rule(gate_figures, 5, _ours),
    TWO_LOOKS: Rule(gate_figures, 10, _ours_in_two_looks),
    f"{OURS}, 10 runs a side": Rule(gate_figures, 10, _ours, baseline_runs=10),
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
        said = [
            rule.judge(
                [before[index] for index in theirs[: rule.baseline_runs]], [after[index] for index in ours[: rule.runs]]
            )
            for theirs, ours in draws
        ]
        return Share(said.count("fail"), len(said)), Share(said.count("inconclusive"), len(said))


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
        found["one rank"] = "the series has no other, so that it is every step"
    return found


def skipped(series: Series) -> list[str]:
    """What a series is too poor for, in words."""
    count = len(series.runs)
    found = [
        f"skipped: {name} takes {rule.needs} runs a trial, the series has {count}"
        for name, rule in RULES.items()
        if rule.needs > count
    ]
    return found + [f"skipped: {kind}, {why}" for kind, why in _too_poor_for(series).items()]


def held_back(series: Series, trials: int, seed: int = 0) -> list[Outcome]:
    """False alarms within each half of the runs, and of a baseline from the first half with new runs from the second.

    The last is what a machine that drifts does to a stored baseline: no rule for exchangeable runs can promise for it.
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
        for name in (FIVE_RUNS, TWO_LOOKS, "MindSpeed's, mean of steps 6 to N"):
            rule = RULES[name]
            if where != "across" and rule.needs > half or max(rule.runs, rule.baseline_runs) > half:
                continue
            draws = [_draw(random, theirs, ours, rule) for _ in range(trials)]
            outcomes.append(Outcome(where, name, "every step", 0.0, *replayed.ask(rule, "every step", 0.0, draws)))
    return outcomes


def _draw(random: np.random.Generator, theirs: npt.NDArray[np.int_], ours: npt.NDArray[np.int_], rule: Rule) -> Draw:
    before = random.permutation(theirs)[: rule.baseline_runs]
    return before.tolist(), random.permutation(np.setdiff1d(ours, before))[: rule.runs].tolist()


# ---- shown ---------------------------------------------------------------------------------------------


def spread_percent(series: Series) -> float:
    """Between-run standard deviation of the runs' medians."""
    return 100 * float(np.log([gate_figures(run.seconds)[STEP] for run in series.runs]).std(ddof=1))


def table(outcomes: Sequence[Outcome], series: Series) -> str:
    """Markdown: false alarms first, then what each rule finds of each slowdown, then what was skipped."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in outcomes):
        for rule in dict.fromkeys(each.rule for each in outcomes):
            of_rule = {each.percent: each for each in outcomes if each.rule == rule and each.kind == kind}
            alarms = next(each for each in outcomes if each.rule == rule and each.percent == 0.0)
            found = [f"{of_rule[p].failed.value:.0%}" if p in of_rule else "" for p in SLOWDOWNS_PERCENT if p]
            rows.append((kind, rule, str(alarms.failed), f"{alarms.inconclusive.value:.0%}", *found))
    headers = ["worse in", "rule", "false alarms", "inconclusive", *(f"{p:g} % found" for p in SLOWDOWNS_PERCENT if p)]
    title = (
        f"{series.condition}: {len(series.runs)} runs of {series.recipe_name} on {series.device_name}, between-run "
        f"variation {spread_percent(series):.2f} %, {outcomes[0].failed.trials} trials"
    )
    return "\n".join(
        [f"{title}\n", tabulate(rows, headers, tablefmt="github", disable_numparse=True), *skipped(series)]
    )


def halves_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown of `held_back`."""
    rows = [(each.condition, each.rule, str(each.failed), f"{each.inconclusive.value:.0%}") for each in outcomes]
    headers = ["runs of", "rule", "false alarms", "inconclusive"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def as_json(series: Series, outcomes: Sequence[Outcome], halves: Sequence[Outcome]) -> dict[str, Any]:
    """All that was counted of a series, plain."""
    return {
        "condition": series.condition,
        "recipe_name": series.recipe_name,
        "recipe_hash": series.recipe_hash,
        "device_name": series.device_name,
        "runs": len(series.runs),
        "spread_percent": spread_percent(series),
        "skipped": skipped(series),
        "outcomes": [_plain(each) for each in outcomes],
        "held_back": [_plain(each) for each in halves],
    }


def _plain(outcome: Outcome) -> dict[str, Any]:
    shares = {
        name: {"count": share.count, "trials": share.trials, "low": share.interval[0], "high": share.interval[1]}
        for name, share in (("failed", outcome.failed), ("inconclusive", outcome.inconclusive))
    }
    named = {"of": outcome.condition, "rule": outcome.rule, "kind": outcome.kind, "percent": outcome.percent}
    return named | shares


def json_text(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """What --json writes."""
    return (json.dumps({"schema": 1, "series": parts}, indent=1) + "\n").encode()


def is_sound(outcomes: Sequence[Outcome]) -> bool:
    """False where the gate's false alarms are surely above what it states."""
    alarms = [each.failed for each in outcomes if each.percent == 0.0 and each.rule.startswith(OURS)]
    return all(share.interval[0] <= FAMILY_ERROR for share in alarms)

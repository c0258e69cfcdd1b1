"""Are runs slower than the baseline's, and how certain is that? Run medians in, a judgement and its error rates out.

The unit is the run, not the step: steps of one run depend on one another. Times are compared as logarithms, so that a
change is a ratio, with the pooled between-run variance of both sides (Student's t, as in the prediction interval of
Hahn and Meeker, "Statistical Intervals", for a single new run). Pure functions, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import optimize, special
from scipy import stats as distributions

MIN_BASELINE_RUNS = 5
MIN_PAIRS = 3
# Runs of ours below which nothing fails or improves, however far off: on recorded noise one run that met a burst of
# other work failed 5 to 7 % of the time where 1 % was stated, three runs did not (docs/baselines.md).
MIN_RUNS_TO_DECIDE = 3
FAMILY_ERROR = 0.01  # of all that one suite judges: the chance that any equal metric fails, or any improves
FLOOR_PERCENT = 1.0  # a smaller change is of no practical interest, however sure it is
LIMIT_PERCENT = 100 * 5 / 95  # of step seconds: 5 % fewer tokens a second
# A suite that may ask for more runs is judged in two stages: the first at this share of the error, the second, on all
# runs together, at the rest. Both together are wrong at most as often as one judgement at the whole error.
FIRST_STAGE_SHARE = 0.2
FIRST_STAGE_ERROR = FAMILY_ERROR * FIRST_STAGE_SHARE
SECOND_STAGE_ERROR = FAMILY_ERROR * (1 - FIRST_STAGE_SHARE)
POWER = 0.95  # of the smallest change that is called visible
# Two runs can be equal by chance, or to the clock's last digit: below this spread nothing is known to be quieter.
_LEAST_SPREAD = 1e-4

MetricState = Literal["pass", "fail", "improved", "inconclusive"]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Evidence:
    """What two samples of runs say about one metric that is better when smaller. Changes are in percent, + is worse."""

    change_percent: float
    low_percent: float  # two-sided interval at 1 - 2 alpha, so that each end is a one-sided bound at 1 - alpha
    high_percent: float
    visible_percent: float  # the smallest slowdown that this many runs show with power 95 % at alpha
    worse_p: float
    better_p: float
    spread_percent: float  # between runs, one standard deviation
    runs: tuple[int, int]  # baseline's, ours


@dataclass(frozen=True)
class Judgement:
    """A metric's state and the alpha at which Holm's procedure tested it."""

    state: MetricState
    evidence: Evidence
    alpha: float


@dataclass(frozen=True)
class Comparison:
    """One metric's figures, one a run, of two sides; better when smaller.

    `whole` None: figures are positive and a change is a ratio. Else figures are parts of `whole`, as seconds of a step
    are, and a change is a share of it. Paired runs were taken side by side, the first with the first.
    """

    before: Sequence[float]
    after: Sequence[float]
    whole: float | None = None
    weight: float = 1.0  # of the family's error
    limit_percent: float = LIMIT_PERCENT  # a slowdown that must be ruled out
    floor_percent: float = FLOOR_PERCENT  # a smaller change does not matter, however sure
    is_paired: bool = False


@dataclass(frozen=True)
class _Difference:
    """A change on the scale that is tested, its standard error and degrees of freedom."""

    change: float
    error: float
    freedom: int
    spread: float


def weigh(comparison: Comparison, alpha: float = FAMILY_ERROR) -> Evidence:
    """Compare the runs of two sides.

    Raises:
        ValueError: too few runs for a between-run variance, or a figure that cannot be one.
    """
    units, found = _units(comparison), _difference(comparison)
    critical, visible = _critical(_two_digits(alpha), found.freedom)
    return Evidence(
        change_percent=units(found.change),
        low_percent=units(found.change - critical * found.error),
        high_percent=units(found.change + critical * found.error),
        visible_percent=units(visible * found.error),
        worse_p=float(distributions.t.sf(found.change / found.error, found.freedom)),
        better_p=float(distributions.t.cdf(found.change / found.error, found.freedom)),
        spread_percent=units(found.spread),
        runs=(len(comparison.before), len(comparison.after)),
    )


def _units(comparison: Comparison) -> Callable[[float], float]:
    """Convert from the tested scale to percent."""
    return _ratio_percent if comparison.whole is None else _share_percent


def _difference(comparison: Comparison) -> _Difference:
    _check(comparison)
    before, after = (_scaled(side, comparison.whole) for side in (comparison.before, comparison.after))
    return _paired(before, after) if comparison.is_paired else _unpaired(before, after)


def _check(comparison: Comparison) -> None:
    before, after = comparison.before, comparison.after
    least = (MIN_PAIRS, MIN_PAIRS) if comparison.is_paired else (MIN_BASELINE_RUNS, 1)
    if len(before) < least[0] or len(after) < least[1]:
        raise ValueError(
            f"{len(before)} baseline runs and {len(after)} of ours: at least {least[0]} and {least[1]} are needed"
        )
    if comparison.is_paired and len(before) != len(after):
        raise ValueError(f"{len(before)} runs of one revision and {len(after)} of the other do not make pairs")
    lowest = 0.0 if comparison.whole is None else -math.inf
    if not all(math.isfinite(value) and value > lowest for value in (*before, *after)):
        raise ValueError("a run's figure is not a positive number")


def _scaled(values: Sequence[float], whole: float | None) -> npt.NDArray[np.float64]:
    figures = np.asarray(values, dtype=np.float64)
    return np.asarray(np.log(figures) if whole is None else figures / whole)


def _unpaired(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> _Difference:
    freedom = len(before) + len(after) - 2
    squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    spread = max(math.sqrt(squares / freedom), _LEAST_SPREAD)
    error = spread * math.sqrt(1 / len(before) + 1 / len(after))
    return _Difference(float(after.mean() - before.mean()), error, freedom, spread)


def _paired(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> _Difference:
    changes = after - before
    spread = max(float(changes.std(ddof=1)), _LEAST_SPREAD)
    return _Difference(float(changes.mean()), spread / math.sqrt(len(changes)), len(changes) - 1, spread)


def decide(family: Mapping[Key, Comparison], family_error: float = FAMILY_ERROR) -> dict[Key, Judgement]:
    """Judge a family of metrics, each with its own evidence.

    A metric fails if it is significantly worse, and by more than its floor. Holm's weighted step-down procedure keeps
    the chance that any metric of the family fails without cause at `family_error`, however they depend on each other.
    Improving works the same way. Both need three runs of ours; fewer are inconclusive. Otherwise the metric passes if a
    slowdown of its limit can be ruled out, and is inconclusive if not.
    """
    weighed = {name: weigh(each) for name, each in family.items()}
    weights = {name: each.weight for name, each in family.items()}
    alphas = _holm({name: each.worse_p for name, each in weighed.items()}, weights, family_error)
    better = _holm({name: each.better_p for name, each in weighed.items()}, weights, family_error)
    found = {}
    for name, comparison in family.items():
        is_worse, alpha = alphas[name]
        evidence = weigh(comparison, alpha=alpha)
        state = _state(comparison, evidence.change_percent, evidence.high_percent, is_worse, better[name][0])
        found[name] = Judgement(state, evidence, alpha)
    return found


def _state(
    comparison: Comparison, change_percent: float, high_percent: float, is_worse: bool, is_better: bool
) -> MetricState:
    """What a change is; `is_worse` and `is_better` say whether Holm's procedure calls it that."""
    decided: MetricState = "inconclusive"
    if is_worse and change_percent > comparison.floor_percent:
        decided = "fail"
    elif is_better and change_percent < -comparison.floor_percent:
        decided = "improved"
    elif high_percent < comparison.limit_percent:
        return "pass"
    return decided if len(comparison.after) >= MIN_RUNS_TO_DECIDE else "inconclusive"


def _holm(
    p_values: Mapping[Key, float], weights: Mapping[Key, float], family_error: float
) -> dict[Key, tuple[bool, float]]:
    """By name: (rejected, the alpha that it was tested at).

    Holm (1979), with weights: the smallest p over weight first, each at its share of the error among those left.
    """
    order = sorted(p_values, key=lambda name: p_values[name] / weights[name])
    result, going, left = {}, True, math.fsum(weights.values())
    for name in order:
        alpha = family_error * min(1.0, weights[name] / max(left, weights[name]))
        going = going and p_values[name] <= alpha
        result[name] = (going, alpha)
        left -= weights[name]
    return result


def _two_digits(alpha: float) -> float:
    """Rounded down, so that the intervals of a thousand metrics share a few hundred solutions."""
    unit = 10.0 ** (math.floor(math.log10(alpha)) - 1)
    return float(f"{math.floor(alpha / unit * (1 + 1e-9)) * unit:.1e}")


@functools.lru_cache(maxsize=4096)
def _critical(alpha: float, freedom: int) -> tuple[float, float]:
    """(t beyond which alpha lies, standard errors of a change that is found with POWER): in units of the error."""
    critical = float(distributions.t.isf(alpha, freedom))
    power_lacks = partial(_lacking_power, critical, freedom)
    return critical, float(optimize.brentq(power_lacks, 0.0, 4 * critical + 20.0, xtol=1e-6))


def _lacking_power(critical: float, freedom: int, noncentrality: float) -> float:
    return POWER - float(distributions.nct.sf(critical, freedom, noncentrality))


def _ratio_percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def _share_percent(share: float) -> float:
    return 100 * share


def states(family: Mapping[Key, Comparison], family_error: float = FAMILY_ERROR) -> dict[Key, MetricState]:
    """The states of `decide` alone, many times as fast: for replays of a hundred thousand judgements."""
    differences = {name: _difference(each) for name, each in family.items()}
    weights = {name: each.weight for name, each in family.items()}
    worse_p = {name: _upper_tail(each.change / each.error, each.freedom) for name, each in differences.items()}
    better_p = {name: _upper_tail(-each.change / each.error, each.freedom) for name, each in differences.items()}
    worse, better = (_holm(p_values, weights, family_error) for p_values in (worse_p, better_p))
    return {
        name: _state(each, *_change_and_high(each, differences[name], worse[name][1]), worse[name][0], better[name][0])
        for name, each in family.items()
    }


def _change_and_high(comparison: Comparison, found: _Difference, alpha: float) -> tuple[float, float]:
    units, critical = _units(comparison), _critical(_two_digits(alpha), found.freedom)[0]
    return units(found.change), units(found.change + critical * found.error)


def _upper_tail(t: float, freedom: int) -> float:
    return float(special.stdtr(freedom, -t))

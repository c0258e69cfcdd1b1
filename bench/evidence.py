"""How sure may one be that runs are slower than the baseline's? Run medians in, a judgement and its error rates out.

The unit is the run, not the step: steps of one run depend on one another. Times are compared as logarithms, so that a
change is a ratio, with the pooled between-run variance of both sides (Student's t, as in the prediction interval of
Hahn and Meeker, "Statistical Intervals", for a single new run). Pure functions, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from scipy import optimize
from scipy import stats as distributions

MIN_BASELINE_RUNS = 5
# Runs of ours below which nothing fails or improves, however far off: on recorded noise one run that met a burst of
# other work failed 5 to 7 % of the time where 1 % was stated, three runs did not (docs/baselines.md).
MIN_RUNS_TO_DECIDE = 3
FAMILY_ERROR = 0.01  # of all that one suite judges: the chance that any equal metric fails, or any improves
FLOOR_PERCENT = 1.0  # a smaller change is of no practical interest, however sure it is
POWER = 0.95  # of the smallest change that is called visible
# Two runs can be equal by chance, or to the clock's last digit: below this spread nothing is known to be quieter.
_LEAST_SPREAD = 1e-4

State = Literal["pass", "fail", "improved", "inconclusive"]


@dataclass(frozen=True)
class Evidence:
    """What the runs of two sides say of one metric that is better when smaller. Changes are in percent, + is worse."""

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

    state: State
    evidence: Evidence
    alpha: float


def weigh(baseline: Sequence[float], runs: Sequence[float], alpha: float = FAMILY_ERROR) -> Evidence:
    """Compare run medians, all positive, of a baseline with ours.

    Raises:
        ValueError: too few runs for a between-run variance, or a value that is not a positive number.
    """
    if len(baseline) < MIN_BASELINE_RUNS or not len(runs):
        raise ValueError(f"{len(baseline)} baseline runs and {len(runs)} of ours: needs {MIN_BASELINE_RUNS} and 1")
    if not all(math.isfinite(value) and value > 0 for value in (*baseline, *runs)):
        raise ValueError("a run's figure is not a positive number")
    before, after = np.log(np.asarray(baseline, dtype=np.float64)), np.log(np.asarray(runs, dtype=np.float64))
    freedom = len(before) + len(after) - 2
    squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    spread = max(math.sqrt(squares / freedom), _LEAST_SPREAD)
    error = spread * math.sqrt(1 / len(before) + 1 / len(after))
    change = float(after.mean() - before.mean())
    critical, visible = _critical(alpha, freedom)
    return Evidence(
        change_percent=_percent(change),
        low_percent=_percent(change - critical * error),
        high_percent=_percent(change + critical * error),
        visible_percent=_percent(visible * error),
        worse_p=float(distributions.t.sf(change / error, freedom)),
        better_p=float(distributions.t.cdf(change / error, freedom)),
        spread_percent=_percent(spread),
        runs=(len(before), len(after)),
    )


def decide(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    limit_percent: float,
    floor_percent: float = FLOOR_PERCENT,
    family_error: float = FAMILY_ERROR,
) -> dict[str, Judgement]:
    """Judge a family of metrics by name, each (baseline's run figures, ours), better when smaller.

    A metric fails if it is worse both surely (Holm's step-down procedure keeps the chance that any metric of the
    family fails without cause at `family_error`, whatever their dependence) and by more than the floor. It improves
    likewise. Either takes three runs of ours; fewer are inconclusive. Otherwise it passes if a slowdown of
    `limit_percent` can be ruled out, and is inconclusive if not.
    """
    weighed = {name: weigh(*pair) for name, pair in pairs.items()}
    alphas = _holm({name: each.worse_p for name, each in weighed.items()}, family_error)
    better = _holm({name: each.better_p for name, each in weighed.items()}, family_error)
    found = {}
    for name, pair in pairs.items():
        is_worse, alpha = alphas[name]
        evidence = weigh(*pair, alpha=alpha)
        state: State = "inconclusive"
        can_decide = len(pair[1]) >= MIN_RUNS_TO_DECIDE
        if is_worse and evidence.change_percent > floor_percent:
            state = "fail" if can_decide else "inconclusive"
        elif better[name][0] and evidence.change_percent < -floor_percent:
            state = "improved" if can_decide else "inconclusive"
        elif evidence.high_percent < limit_percent:
            state = "pass"
        found[name] = Judgement(state, evidence, alpha)
    return found


def _holm(p_values: Mapping[str, float], family_error: float) -> dict[str, tuple[bool, float]]:
    """By name: (rejected, the alpha that it was tested at). Holm (1979): smallest p first, at error / what is left."""
    order = sorted(p_values, key=lambda name: p_values[name])
    result, going = {}, True
    for done, name in enumerate(order):
        alpha = family_error / (len(order) - done)
        going = going and p_values[name] <= alpha
        result[name] = (going, alpha)
    return result


@functools.lru_cache(maxsize=4096)
def _critical(alpha: float, freedom: int) -> tuple[float, float]:
    """(t beyond which alpha lies, standard errors of a change that is found with POWER): in units of the error."""
    critical = float(distributions.t.isf(alpha, freedom))
    power_lacks = partial(_lacking_power, critical, freedom)
    return critical, float(optimize.brentq(power_lacks, 0.0, 4 * critical + 20.0, xtol=1e-6))


def _lacking_power(critical: float, freedom: int, noncentrality: float) -> float:
    return POWER - float(distributions.nct.sf(critical, freedom, noncentrality))


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)

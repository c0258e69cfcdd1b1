"""Are runs slower than the baseline's, and how certain is that? Run medians in, a judgement and its error rates out.

Figures of two sides' runs make a difference with an error (bench.judge.difference); all that is judged together shares
one error (bench.judge.multiplicity). For a single new run within one session this is the classic prediction interval of
Hahn and Meeker, "Statistical Intervals". Pure functions, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded at their first use

from bench.judge.difference import Comparison, Difference, Error, difference
from bench.judge.multiplicity import Asked, Rejection, rejections

# Runs of ours below which nothing fails or improves, however far off: on recorded noise one run that met a burst of
# other work failed 5 to 7 % of the time where 1 % was stated, three runs did not (docs/gate-errors.md).
MIN_RUNS_TO_DECIDE = 3
FAMILY_ERROR = 0.01  # of all that one suite judges: the chance that any equal metric fails, or any improves
# A suite that may ask for more runs is judged in two stages: the first at this share of the error, the second, on all
# runs together, at the rest. Both together are wrong at most as often as one judgement at the whole error.
FIRST_STAGE_SHARE = 0.2
FIRST_STAGE_ERROR = FAMILY_ERROR * FIRST_STAGE_SHARE
SECOND_STAGE_ERROR = FAMILY_ERROR * (1 - FIRST_STAGE_SHARE)
POWER = 0.95  # of the smallest change that is called visible

# Gauss and Legendre's nodes and weights, on the interval from 0 to 1
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(64) + np.array([[1.0], [0.0]])) / 2

MetricState = Literal["pass", "fail", "improved", "inconclusive"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Evidence:
    """What two samples of runs say about one metric that is better when smaller. Changes are in percent, + is worse."""

    change_percent: float
    low_percent: float  # two-sided interval at 1 - 2 alpha, so that each end is a one-sided bound at 1 - alpha
    high_percent: float
    visible_percent: float  # the smallest slowdown that this many runs show with power 95 % at alpha
    worse_p: float
    better_p: float
    spread_percent: float  # between runs of one session, one standard deviation
    runs: tuple[int, int]  # baseline's, ours
    session_percent: float | None = None  # between sessions, one standard deviation; None within one session
    is_session_known: bool = False  # from the baseline's own sessions; else
    session_origin: str = ""  # who says so, in words


@dataclass(frozen=True)
class Judgement:
    """A metric's state and the alpha at which it was tested.

    `is_suspicion`: within one session the change would be significant, but the level of a session can explain it.
    `excuse`: what else may be the whole of it, in words; then there is no answer.
    """

    state: MetricState
    evidence: Evidence
    alpha: float
    is_suspicion: bool = False
    excuse: str = ""


def weigh(comparison: Comparison, alpha: float = FAMILY_ERROR) -> Evidence:
    """Compare the runs of two sides.

    Raises:
        ValueError: too few runs for a between-run variance, or a figure that cannot be one.
    """
    return _evidence(comparison, difference(comparison), alpha)


def _evidence(comparison: Comparison, found: Difference, alpha: float) -> Evidence:
    units = _units(comparison)
    critical, visible = _critical(_two_digits(alpha), _one_decimal(found.error.freedom))
    reach = critical * found.error.size + found.resolution
    across = comparison.is_across_sessions
    return Evidence(
        change_percent=units(found.change),
        low_percent=units(found.change - reach),
        high_percent=units(found.change + reach),
        visible_percent=units(visible * found.error.size + found.resolution),
        worse_p=_p_value(found.change, found.error, found.resolution),
        better_p=_p_value(-found.change, found.error, found.resolution),
        spread_percent=units(found.spread),
        runs=(len(comparison.before), len(comparison.after)),
        session_percent=units(found.session_spread) if across else None,
        is_session_known=found.is_session_spread_known,
        session_origin=found.session_origin if across else "",
    )


def _units(comparison: Comparison) -> Callable[[float], float]:
    """Convert from the tested scale to percent."""
    return _ratio_percent if comparison.whole is None else _share_percent


def _p_value(change: float, error: Error, resolution: float) -> float:
    """Of a change that is larger than the clock's tick can make it."""
    t = (change - resolution) / error.size
    # Beyond 1e10 degrees of freedom Student's t is the normal distribution to the last digit.
    return float(scipy.special.ndtr(-t) if error.freedom > 1e10 else scipy.special.stdtr(error.freedom, -t))


def decide(family: Mapping[Key, Comparison], family_error: float = FAMILY_ERROR) -> dict[Key, Judgement]:
    """Judge a family of metrics, each with its own evidence.

    A metric fails if it is significantly worse, and by more than its floor. The chance that any question of the family
    (a metric, or a group of them) fails without cause is at most `family_error`, however they depend on each other.
    Improving works the same way. Both need three runs of ours; fewer are inconclusive. Otherwise the metric passes if a
    slowdown of its limit can be ruled out, and is inconclusive if not.
    """
    judged = _Family(family, family_error)
    return {
        name: Judgement(
            state=judged.state(name),
            evidence=_evidence(comparison, judged.differences[name], judged.worse[name].alpha),
            alpha=judged.worse[name].alpha,
            is_suspicion=judged.is_suspicion(name),
        )
        for name, comparison in family.items()
    }


def states(family: Mapping[Key, Comparison], family_error: float = FAMILY_ERROR) -> dict[Key, MetricState]:
    """The states of `decide` alone, many times as fast: for replays of a hundred thousand judgements."""
    judged = _Family(family, family_error)
    return {name: judged.state(name) for name in family}


class _Family(Generic[Key]):
    """The metrics that are judged together: their differences, and what each is tested at."""

    def __init__(self, family: Mapping[Key, Comparison], family_error: float) -> None:
        self.comparisons = family
        self.differences = {name: difference(each) for name, each in family.items()}
        self.worse = self._tested(1, family_error)
        self.better = self._tested(-1, family_error)

    def _tested(self, sign: int, family_error: float) -> dict[Key, Rejection]:
        asked = {
            name: Asked(
                _p_value(sign * found.change, found.error, found.resolution),
                name if self.comparisons[name].group is None else self.comparisons[name].group,
                self.comparisons[name].weight,
            )
            for name, found in self.differences.items()
        }
        return rejections(asked, family_error)

    def state(self, name: Key) -> MetricState:
        comparison, found = self.comparisons[name], self.differences[name]
        units, alpha = _units(comparison), self.worse[name].alpha
        critical = _critical(_two_digits(alpha), _one_decimal(found.error.freedom))[0]
        high_percent = units(found.change + critical * found.error.size + found.resolution)
        return _state(
            comparison, units(found.change), high_percent, self.worse[name].is_rejected, self.better[name].is_rejected
        )

    def is_suspicion(self, name: Key) -> bool:
        """Whether only the level of a session keeps a slowdown from being significant."""
        comparison, found = self.comparisons[name], self.differences[name]
        if found.within is None or self.worse[name].is_rejected:
            return False
        p_value = _p_value(found.change, found.within, found.resolution)
        return p_value <= self.worse[name].alpha and _units(comparison)(found.change) > comparison.floor_percent


def _state(
    comparison: Comparison, change_percent: float, high_percent: float, is_worse: bool, is_better: bool
) -> MetricState:
    """What a change is; `is_worse` and `is_better` say whether Holm's procedure calls it that."""
    decided: MetricState = "inconclusive"
    whole = comparison.whole_change_percent
    changes = (change_percent,) if whole is None else (change_percent, whole)
    if is_worse and min(changes) > comparison.floor_percent:
        decided = "fail"
    elif is_better and max(changes) < -comparison.floor_percent:
        decided = "improved"
    elif high_percent < comparison.limit_percent:
        return "pass"
    return decided if len(comparison.after) >= MIN_RUNS_TO_DECIDE else "inconclusive"


def _two_digits(alpha: float) -> float:
    """Rounded down, so that the intervals of a thousand metrics share a few hundred solutions."""
    unit = 10.0 ** (math.floor(math.log10(alpha)) - 1)
    return float(f"{math.floor(alpha / unit * (1 + 1e-9)) * unit:.1e}")


def _one_decimal(freedom: float) -> float:
    """Rounded down, for the same reason; above a thousand Student's t is normal in all digits that are shown."""
    return math.floor(10 * freedom) / 10 if freedom < 1000 else 1000.0


def visible_errors(alpha: float, freedom: float) -> float:
    """The smallest change that is found with POWER at alpha, in standard errors."""
    return _critical(_two_digits(alpha), _one_decimal(freedom))[1]


@functools.lru_cache(maxsize=4096)
def _critical(alpha: float, freedom: float) -> tuple[float, float]:
    """(t beyond which alpha lies, standard errors of a change that is found with POWER): in units of the error."""
    critical = -float(scipy.special.stdtrit(freedom, alpha))
    scales = np.sqrt(2 * scipy.special.gammaincinv(freedom / 2, _NODES) / freedom)
    power_lacks = partial(_lacking_power, critical * scales)
    return critical, float(scipy.optimize.brentq(power_lacks, 0.0, 4 * critical + 20.0, xtol=1e-6))


def _lacking_power(criticals: npt.NDArray[np.float64], noncentrality: float) -> float:
    """By the definition of the noncentral t: normal over the root of chi-square, whose quantiles are integrated over.

    scipy's own takes 50 times as long; they agree to 1e-4 (to 3e-4 at two degrees of freedom and an alpha of 1e-4).
    """
    return POWER - float(_WEIGHTS @ scipy.special.ndtr(noncentrality - criticals))


def _ratio_percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def _share_percent(share: float) -> float:
    return 100 * share

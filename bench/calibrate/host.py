"""What a call costs beside its operator: processor time of a rank's real step, less the sum of its operators.

The rank runs alone with real tensors, its exchanges in torch's fake process group (see bench.lone_rank). What is left
is Python, autograd and the dispatcher: over several ranks a cost a call, which is not negative. A cost a step beside it
cannot be told from it on a machine that changes its speed. Of operators that were timed cold alone, also the share of
it that they take in a step is found, where some operands are in a cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import lsq_linear, nnls

from bench.calibrate.in_step import CallsInSteps
from bench.lone_rank import LoneJob, LoneRank, stepping
from grok1.distributed.rendezvous import Rendezvous

if TYPE_CHECKING:  # imports torch
    from grok1.training.step import Stepper

_WARM_UP = 2
_LEAST_SHARE = 0.4  # of cold time
_FEWEST_FOR_SHARE = 4  # ranks
_UNITS = np.array([1.0, 1e-6])  # microseconds a call: so that both are alike in size


@dataclass(frozen=True)
class HostSample:
    """One rank: seconds of its real step, of its operators by the table, and how many it calls."""

    step_seconds: float
    operator_seconds: float
    calls: int


@dataclass(frozen=True)
class HostCost:
    """Seconds beside the operators, and the median of |log(step / what the figures make of it)|."""

    operator_share: float  # of the table's seconds that operators take in a step
    seconds_a_call: float
    residual: float


@dataclass(frozen=True)
class LoneStep:
    """Median seconds of a rank's step, and those of a call of each signature in it, where they can be told."""

    seconds: float
    operators: dict[str, float]


def run_rank(job: LoneJob, where: Rendezvous, _emit: Callable[[object], None]) -> LoneStep:
    """This rank's step, alone: processor time on a CPU, wall elsewhere. In a process of its own."""
    from grok1.device.kind import device_kind

    with stepping(job, where) as alone:
        if device_kind() == "cpu":
            return _step_on_cpu(job, alone)
        taken = [_seconds(alone.stepper, step, time.perf_counter) for step in range(_WARM_UP + job.num_steps)]
        return LoneStep(statistics.median(taken[_WARM_UP:]), {})


def _step_on_cpu(job: LoneJob, alone: LoneRank) -> LoneStep:
    """Steps, and steps in which calls are heard, in turns, so that the machine is as fast for both.

    A rank without others routes as a run with even routing does: alike in sum, and not in each expert's rows.
    """
    taken, heard = [], CallsInSteps()
    alone.stepper.run(0)
    heard.run(alone.stepper, 1)  # as counted
    for step in range(_WARM_UP, _WARM_UP + 2 * job.num_steps, 2):
        if job.recipe.parallel.world_size == 1:
            alone.routing.draw(step)
        taken.append(_seconds(alone.stepper, step, time.process_time))
        heard.run(alone.stepper, step + 1)
    return LoneStep(statistics.median(taken), heard.seconds())


def _seconds(stepper: Stepper, step: int, clock: Callable[[], float]) -> float:
    start = clock()
    stepper.run(step)
    return clock() - start


def median_of(launches: Sequence[LoneStep]) -> LoneStep:
    """Of one rank, launched several times: a process keeps its speed, and another has another."""
    names = {name for each in launches for name in each.operators}
    calls = {name: [each.operators[name] for each in launches if name in each.operators] for name in names}
    return LoneStep(
        statistics.median(each.seconds for each in launches),
        {name: statistics.median(seconds) for name, seconds in calls.items()},
    )


def fitted(samples: Sequence[HostSample], is_cold: bool = True) -> HostCost:
    """The costs and the share that leave the least relative errors of the steps.

    Operators that were not timed cold, and fewer than four samples, leave the share at 1.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("no rank's step was measured, so the host's cost is unknown; give at least one --recipe")
    steps = np.array([each.step_seconds for each in samples])
    columns = np.array([[each.operator_seconds, float(each.calls)] for each in samples])
    shares = columns / steps[:, None] * _UNITS
    if not is_cold or len(samples) < _FEWEST_FOR_SHARE:
        rest, _ = nnls(shares[:, 1:], np.maximum(0.0, 1.0 - shares[:, 0]))
        found = np.array([1.0, *rest]) * _UNITS
    else:
        bounds = [_LEAST_SHARE, 0.0], [1.0, np.inf]
        found = lsq_linear(shares, np.ones(len(samples)), bounds=bounds, tol=1e-12).x * _UNITS
    share, a_call = found
    residual = float(np.median(np.abs(np.log(steps / (columns @ found)))))
    return HostCost(float(share), float(a_call), residual)

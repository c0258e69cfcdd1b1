"""What a call costs beside its operator: processor time of a rank's real step, less the sum of its operators.

The rank runs alone with real tensors, its exchanges in torch's fake process group (see bench.lone_rank). What is left
is Python, autograd and the dispatcher. Over several ranks it is a cost a call and a cost a step, neither negative.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from bench.lone_rank import LoneJob, stepping
from grok1.distributed.rendezvous import Rendezvous

_WARM_UP = 2


@dataclass(frozen=True)
class HostSample:
    """One rank: seconds of its real step, of its operators by the table, and how many it calls."""

    step_seconds: float
    operator_seconds: float
    calls: int


@dataclass(frozen=True)
class HostCost:
    """Seconds beside the operators, and the median of |log(step / what the two figures make of it)|."""

    seconds_a_call: float
    seconds_a_step: float
    residual: float


def run_rank(job: LoneJob, where: Rendezvous, _emit: Callable[[object], None]) -> float:
    """Median seconds of this rank's step, alone: processor time on a CPU, wall elsewhere. In a process of its own."""
    from grok1.device.kind import device_kind

    clock = time.process_time if device_kind() == "cpu" else time.perf_counter
    taken = []
    with stepping(job, where) as (stepper, _):
        for step in range(_WARM_UP + job.num_steps):
            start = clock()
            stepper.run(step)
            taken.append(clock() - start)
    return statistics.median(taken[_WARM_UP:])


def fitted(samples: Sequence[HostSample]) -> HostCost:
    """The cost a call and a step that leave the least relative errors of the steps; one sample gives a call's alone.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("no rank's step was measured, so the host's cost is unknown; give at least one --recipe")
    steps = np.array([each.step_seconds for each in samples])
    operators = np.array([each.operator_seconds for each in samples])
    columns = np.array([[each.calls, float(len(samples) > 1)] for each in samples])
    (a_call, a_step), _ = nnls(columns / steps[:, None], (steps - operators) / steps)
    made = operators + columns @ np.array([a_call, a_step])
    return HostCost(float(a_call), float(a_step), float(np.median(np.abs(np.log(steps / made)))))

"""What whole steps took where a device was calibrated, over what the closed forms make of them. No torch.

Closed forms leave out what operators of small sizes and ranks beside each other take more: on a CPU a step takes 1.1 to
2.3 times as long, and jobs of as many ranks nearly as much longer. So plans are anchored by the calibration's runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Floats, Ints
from bench.plan.measured import WholeSteps

UNPLANNED = (
    "this profile has no whole steps beside its operators, so that plans are too fast, on a CPU by 10 to 50 %: "
    "calibrate again"
)


def step_factors(device: Device, world_size: Ints) -> Floats:
    """What the closed forms' seconds of jobs of so many ranks are multiplied with; 1 where no step was run."""
    rows = device.measured.whole_steps if device.measured is not None else []
    if not rows:
        return np.ones(len(world_size))
    sizes, factors = np.log(sorted((each.job_ranks, each.factor) for each in rows)).T
    return np.asarray(np.exp(np.interp(np.log(world_size), sizes, factors)))


def whole_steps(ranks: Sequence[int], measured: Sequence[float], planned: Sequence[float]) -> list[WholeSteps]:
    """A row a number of ranks, of jobs that took `measured` seconds a step where closed forms say `planned`."""
    by_ranks: dict[int, list[float]] = defaultdict(list)
    for each, took, said in zip(ranks, measured, planned, strict=True):
        by_ranks[each].append(took / said)
    return [
        WholeSteps(job_ranks=each, factor=float(np.exp(np.mean(np.log(ratios)))))
        for each, ratios in sorted(by_ranks.items())
    ]


def lacks_steps(device: Device) -> bool:
    """Whether operators were timed and no step was, where ranks share cores."""
    return device.measured is not None and device.cores is not None and not device.measured.whole_steps

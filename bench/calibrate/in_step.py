"""Seconds of each signature where a rank's own step calls it, on a CPU: with its operands where the step left them.

What was just made is still in a cache, what the optimizer reads is not: in a step of grok1-nano activations took 0.15
of their cold time and AdamW 0.8, so that no one share of cold times stands for both. A call's seconds are the thread's
own processor time; the figure is the mean of a step, as steps are sums of calls, and the median of that over steps.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.calibrate.operators import OperatorTimes, clock_seconds
from bench.calibrate.signatures import signature

if TYPE_CHECKING:  # imports torch
    from grok1.training.step import Stepper

_LEAST_SECONDS = 1e-9


class CallsInSteps:
    """Runs steps and hears the calls in them."""

    def __init__(self) -> None:
        self._means: dict[str, list[float]] = defaultdict(list)

    def run(self, stepper: Stepper, step: int) -> None:
        """One step; slower than it is, as each call is heard."""
        gc.disable()
        with _watch() as watch:
            stepper.run(step)
        gc.enable()
        for name, taken in watch.taken.items():
            self._means[name].append(statistics.fmean(taken))

    def seconds(self) -> dict[str, float]:
        """Of a call of each signature. The clock's own cost is taken off."""
        clock = clock_seconds()
        return {name: max(_LEAST_SECONDS, statistics.median(each) - clock) for name, each in self._means.items()}


def as_run(times: OperatorTimes, in_step: Mapping[str, float]) -> OperatorTimes:
    """With the seconds that calls took in a step, where it has them."""
    timed = tuple(replace(each, seconds=in_step.get(each.signature, each.seconds)) for each in times.timed)
    return replace(times, timed=timed)


def _watch() -> Any:
    """Times the calls inside it; of a class made here, because its base imports torch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.taken: dict[str, list[float]] = defaultdict(list)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            start = time.thread_time()
            result = func(*args, **kwargs)
            seconds = time.thread_time() - start
            self.taken[signature(func, args, kwargs)].append(seconds)
            return result

    return Watch()

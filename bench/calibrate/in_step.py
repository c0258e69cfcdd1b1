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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.calibrate.operators import OperatorTimes, clock_seconds
from bench.calibrate.signatures import signature

if TYPE_CHECKING:  # imports torch
    from grok1.training.step import Stepper

_LEAST_SECONDS = 1e-9


class CallsInSteps:
    """Runs steps and hears the calls in them.

    The first has the shapes that are counted, and names the calls of all. In later ones routers may send other numbers
    of tokens to an expert; each call's time goes to the call at its place in the first. So what is counted with even
    rows takes what uneven ones take, which is more: in a step of grok1-nano a tenth for all matrix products together.
    """

    def __init__(self) -> None:
        self._first: Any = None  # what was heard in the step that names
        self._means: dict[str, list[float]] = defaultdict(list)

    def run(self, stepper: Stepper, step: int) -> None:
        """One step; slower than it is, as each call is heard. Dropped where it calls other operators than the first."""
        gc.disable()
        with _watch(is_named=self._first is None) as watch:
            stepper.run(step)
        gc.enable()
        if self._first is None:
            self._first = watch
        elif watch.calls == self._first.calls:
            for name, seconds in self._by_name(watch.seconds).items():
                self._means[name].append(seconds)

    def seconds(self) -> dict[str, float]:
        """Of a call of each signature; in the first step if all others were dropped. The clock's cost is taken off."""
        if self._first is None:
            return {}
        clock = clock_seconds()
        medians = {name: statistics.median(each) for name, each in self._means.items()}
        found = medians or self._by_name(self._first.seconds)
        return {name: max(_LEAST_SECONDS, seconds - clock) for name, seconds in found.items()}

    def _by_name(self, seconds: Sequence[float]) -> dict[str, float]:
        """The mean of a step's calls of each signature."""
        taken: dict[str, list[float]] = defaultdict(list)
        for name, each in zip(self._first.signatures, seconds, strict=True):
            taken[name].append(each)
        return {name: statistics.fmean(each) for name, each in taken.items()}


def as_run(times: OperatorTimes, in_step: Mapping[str, float]) -> OperatorTimes:
    """With the seconds that calls took in a step, where it has them."""
    timed = tuple(replace(each, seconds=in_step.get(each.signature, each.seconds)) for each in times.timed)
    return replace(times, timed=timed)


def _watch(is_named: bool) -> Any:
    """Times the calls inside it, and names them where told; of a class made here, because its base imports torch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[Any] = []
            self.seconds: list[float] = []
            self.signatures: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            start = time.thread_time()
            result = func(*args, **kwargs)
            self.seconds.append(time.thread_time() - start)
            self.calls.append(func)
            if is_named:
                self.signatures.append(signature(func, args, kwargs))
            return result

    return Watch()

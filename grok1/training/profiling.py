"""A profile of chosen steps on chosen ranks: a Chrome or Perfetto trace, and where the time went by module."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from grok1.device import measuring
from grok1.training.job import ProfileRequest
from grok1.training.profiled_seconds import MODULE, module_seconds, operator_use
from grok1.training.result import CollectiveUse, ModuleSeconds, OperatorUse, StepProfile
from grok1.training.step import StepResult


class StepProfiler:
    """Profiles the requested steps on this rank. Other steps cost nothing."""

    def __init__(self, request: ProfileRequest | None, rank: int, model: torch.nn.Module) -> None:
        self._request = request if request is not None and rank in request.ranks else None
        self._rank, self._model = rank, model
        self._found: list[_Profiled] = []

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Run one step inside. A requested step is profiled, and its trace is written."""
        if self._request is None or number + 1 not in self._request.steps:
            yield
            return
        with _profiled(self._model) as profile:
            yield
        path = self._request.folder / f"rank-{self._rank}-step-{number + 1}.json.gz"
        _export(profile, path)
        events = _events(profile)
        self._found.append(_Profiled(number, str(path), module_seconds(events), operator_use(events)))

    def profiles(self, results: Iterable[StepResult]) -> list[StepProfile]:
        """The profiled steps, with the harness's own times of the same steps."""
        by_step = {result.metrics.step: result for result in results}
        return [
            StepProfile(
                rank=self._rank,
                step=each.step + 1,
                trace=each.trace,
                step_seconds=by_step[each.step].seconds,
                modules=each.modules,
                operators=each.operators,
                collectives={
                    name: CollectiveUse(sums.seconds, sums.calls, sums.bytes)
                    for name, sums in by_step[each.step].collectives.items()
                },
            )
            for each in self._found
        ]


class _Profiled(NamedTuple):
    """What the profiler measured of one step, counted from 0."""

    step: int
    trace: str
    modules: dict[str, ModuleSeconds]
    operators: dict[str, OperatorUse]


def profiled_modules(model: torch.nn.Module, take_step: Callable[[], object]) -> dict[str, ModuleSeconds]:
    """Seconds of each module's own operators in the step, the largest first. Empty where there is no profiler."""
    with _profiled(model) as profile:
        take_step()
    return module_seconds(_events(profile))


@contextmanager
def _profiled(model: torch.nn.Module) -> Iterator[Any]:
    recorder, activities = measuring.profiler()
    with named_modules(model), recorder.profile(activities=activities) as profile:
        yield profile


def _events(profile: Any) -> list[FunctionEvent]:
    """The profiled operators. Empty where the profiler writes them to its own files, as torch_npu's does."""
    return list(profile.events()) if hasattr(profile, "events") else []


@contextmanager
def named_modules(model: torch.nn.Module) -> Iterator[None]:
    """Mark the forward of every module in the profile. Layers of one kind share a name."""
    open_ranges: list[record_function] = []

    def enter(name: str) -> Callable[[torch.nn.Module, object], None]:
        def hook(module: torch.nn.Module, args: object) -> None:
            marked = record_function(MODULE + name)
            marked.__enter__()
            open_ranges.append(marked)

        return hook

    def leave(module: torch.nn.Module, args: object, output: object) -> None:
        open_ranges.pop().__exit__(None, None, None)

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            inner = path.removeprefix("module").removeprefix(".")  # of the data-parallel wrapper
            name = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", inner) or "model"
            hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def _export(profile: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name.removesuffix('.json.gz')}.partial.json.gz")
    profile.export_chrome_trace(str(partial))
    os.replace(partial, path)

"""A profile of chosen steps on chosen ranks: a Chrome or Perfetto trace, and where the time went by module.

An operator belongs to the innermost module whose forward was running when it was issued. An operator of the backward
belongs to the module whose forward made it; autograd's sequence numbers tell. Times exclude nested operators, so they
add up.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from grok1.device import measuring
from grok1.training.job import ProfileRequest
from grok1.training.result import CollectiveUse, ModuleSeconds, OperatorUse, StepProfile
from grok1.training.step import StepResult

_MODULE = "module "
_OUTSIDE = "outside the modules"
_ACCUMULATION = "gradient accumulation"
_BACKWARD = "autograd::engine::evaluate_function: "
_MICROSECONDS = 1e6


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
            marked = record_function(_MODULE + name)
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


def module_seconds(events: list[FunctionEvent]) -> dict[str, ModuleSeconds]:
    """Seconds of each module's own operators, without those of modules inside it. The largest first."""
    made_by = {
        event.sequence_nr: module
        for event in events
        if event.sequence_nr >= 0 and not _is_backward(event) and (module := _enclosing(event)) is not None
    }
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        own = _own_seconds(event)
        if not own:
            continue
        backward = _backward_of(event)
        if backward is None:
            seconds[_enclosing(event) or _OUTSIDE][0] += own
        else:
            seconds[made_by.get(backward.sequence_nr, _accumulation_or_outside(backward))][1] += own
    return {name: ModuleSeconds(*each) for name, each in sorted(seconds.items(), key=lambda item: -sum(item[1]))}


def operator_use(events: list[FunctionEvent]) -> dict[str, OperatorUse]:
    """Seconds and calls of each operator, the largest first. Nested operators are excluded."""
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for event in events:
        if not event.name.startswith(_MODULE):
            seconds[event.name] += _own_seconds(event)
            calls[event.name] += 1
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: OperatorUse(own, calls[name]) for name, own in ordered}


def _own_seconds(event: FunctionEvent) -> float:
    on_device = getattr(event, "self_device_time_total", 0.0)
    return float(on_device or event.self_cpu_time_total) / _MICROSECONDS


def _is_backward(event: FunctionEvent) -> bool:
    return bool(event.name.startswith(_BACKWARD))


def _backward_of(event: FunctionEvent | None) -> FunctionEvent | None:
    """The autograd node that ran this operator, if one did."""
    while event is not None and not _is_backward(event):
        event = event.cpu_parent
    return event


def _accumulation_or_outside(backward: FunctionEvent) -> str:
    return _ACCUMULATION if backward.name.endswith("AccumulateGrad") else _OUTSIDE


def _enclosing(event: FunctionEvent | None) -> str | None:
    """The innermost module around an operator."""
    while event is not None and not event.name.startswith(_MODULE):
        event = event.cpu_parent
    return None if event is None else str(event.name.removeprefix(_MODULE))


def _export(profile: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name.removesuffix('.json.gz')}.partial.json.gz")
    profile.export_chrome_trace(str(partial))
    os.replace(partial, path)

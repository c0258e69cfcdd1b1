"""Where the time of a profiled step went, by module and by operator, from the events of torch's profiler.

An operator belongs to the innermost module whose forward was running when it was issued. An operator of the backward
belongs to the module whose forward made it; autograd's sequence numbers tell. Times exclude nested operators, so they
add up. On a CPU they are seconds of the processor, elsewhere seconds of the device's kernels alone.

On a device the profiler tells of each kernel twice: among the `kernels` of the operator that launched it, and as an
event of its own (torch.autograd.profiler, `_parse_kineto_results`). We take the first, and the second only of kernels
that no operator launched. A mark of ours also comes back as an event of the device, which holds the kernels within it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch's stubs lack it
from torch.autograd.profiler_util import FunctionEvent

from grok1.training.result import ModuleSeconds, OperatorUse

MODULE = "module "  # before the name of a module, where its forward is marked in the profile
_OUTSIDE = "outside the modules"
_ACCUMULATION = "gradient accumulation"
_BACKWARD = "autograd::engine::evaluate_function: "
_MICROSECONDS = 1e6


def module_seconds(events: Sequence[FunctionEvent]) -> dict[str, ModuleSeconds]:
    """Seconds of each module's own operators, without those of modules inside it. The largest first."""
    made_by = {
        event.sequence_nr: module
        for event in _of_host(events)
        if event.sequence_nr >= 0 and not _is_backward(event) and (module := _enclosing(event)) is not None
    }
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in _of_host(events):
        own = _own_seconds(event)
        if not own:
            continue
        backward = _backward_of(event)
        if backward is None:
            seconds[_enclosing(event) or _OUTSIDE][0] += own
        else:
            seconds[made_by.get(backward.sequence_nr, _accumulation_or_outside(backward))][1] += own
    for kernel, times in _launched_by_none(events).items():
        seconds[_OUTSIDE][0] += kernel.seconds * times
    return {name: ModuleSeconds(*each) for name, each in sorted(seconds.items(), key=lambda item: -sum(item[1]))}


def operator_use(events: Sequence[FunctionEvent]) -> dict[str, OperatorUse]:
    """Seconds and calls of each operator, the largest first. Nested operators are excluded.

    A kernel that no operator launched stands under its own name.
    """
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    bare = _launched_by_none(events)
    for event in _of_host(events):
        if event.name.startswith(MODULE):
            bare.update(_kernels(event))
        else:
            seconds[event.name] += _own_seconds(event)
            calls[event.name] += 1
    for kernel, times in bare.items():
        seconds[kernel.name] += kernel.seconds * times
        calls[kernel.name] += times
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: OperatorUse(own, calls[name]) for name, own in ordered}


def _of_host(events: Sequence[FunctionEvent]) -> Iterator[FunctionEvent]:
    return (event for event in events if event.device_type == DeviceType.CPU)


def _own_seconds(event: FunctionEvent) -> float:
    """Of an operator: its own kernels where a device was profiled (`use_device`), else its own time on the CPU."""
    own = event.self_device_time_total if event.use_device else event.self_cpu_time_total
    return float(own) / _MICROSECONDS


class _Kernel(NamedTuple):
    name: str
    seconds: float


def _launched_by_none(events: Sequence[FunctionEvent]) -> Counter[_Kernel]:
    """Kernels of the device that are in no operator's list, and how often: those of a replayed graph, for one."""
    on_device = Counter(
        _Kernel(event.name, event.time_range.elapsed_us() / _MICROSECONDS)
        for event in events
        if event.device_type != DeviceType.CPU and not event.is_user_annotation
    )
    on_device.subtract(kernel for event in _of_host(events) for kernel in _kernels(event))
    return +on_device


def _kernels(event: FunctionEvent) -> Iterator[_Kernel]:
    return (_Kernel(kernel.name, kernel.duration / _MICROSECONDS) for kernel in event.kernels)


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
    while event is not None and not event.name.startswith(MODULE):
        event = event.cpu_parent
    return None if event is None else str(event.name.removeprefix(MODULE))

"""What a device says of itself, and how its time and memory are measured."""

from __future__ import annotations

import functools
import importlib.util
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import psutil
import torch

from grok1.device.accelerator import PEAKS
from grok1.device.kind import Kind, device_kind
from grok1.device.processor import processor_name

_AVX512_CORES = {"SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS"}  # names of OpenBLAS's


class Event(Protocol):
    """A point in a device's stream."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds until the other event."""
        ...


class Profiler(Protocol):
    """What torch's profiler and torch_npu's have in common."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def export_chrome_trace(self, path: str, /) -> None: ...


Stamp = float | Event  # a point in time: seconds on a CPU, an event elsewhere


@dataclass(frozen=True)
class Description:
    """What the hardware says of itself."""

    kind: Kind
    name: str
    memory_bytes: int | None
    peak_flops_per_second: float | None
    peak_source: str | None


def describe() -> Description:
    """Name, memory and bf16 peak of this process's processor."""
    chosen = device_kind()
    if chosen == "cpu":
        return Description("cpu", processor_name(), None, None, None)
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(torch.cuda.current_device())
    peak, source = PEAKS.get(name, (None, None))
    return Description(chosen, name, int(memory.total_memory), peak, source)


@functools.cache
def is_openblas_as_wide() -> bool:
    """Whether scipy's OpenBLAS computes in vectors as wide as torch's. It does, unless told a lesser processor."""
    told = os.environ.get("OPENBLAS_CORETYPE", "").upper()
    return not told or told in _AVX512_CORES or torch.backends.cpu.get_cpu_capability() != "AVX512"


def stamp() -> Stamp:
    """A point in this device's time: seconds on a CPU, an event in the stream elsewhere (no synchronisation)."""
    if device_kind() == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Stamp, end: Stamp) -> float:
    """Seconds from one stamp to another; off the CPU both must have been reached (see `synchronize`)."""
    if isinstance(start, float):
        return cast(float, end) - start
    return start.elapsed_time(end) / 1e3


def synchronize() -> None:
    """Wait for all that was issued to this device."""
    torch.cuda.synchronize()


def profiler(raw_folder: Path) -> Profiler:
    """This device's profiler, not started.

    torch_npu's (read at v2.7.1-26.0.0, torch_npu/profiler/profiler.py) prints what goes wrong and returns; it exports
    to names in .json alone, has no `events`, and makes its trace from raw data, which it would leave in the working
    directory: here it leaves them in `raw_folder`.
    """
    if device_kind() == "npu":
        npu: Any = importlib.import_module("torch_npu.profiler")
        keep_raw_data = npu.tensorboard_trace_handler(dir_name=str(raw_folder), analyse_flag=False)
        activities = [npu.ProfilerActivity.CPU, npu.ProfilerActivity.NPU]
        made: Profiler = npu.profile(activities=activities, on_trace_ready=keep_raw_data)
        return made
    from torch.profiler import ProfilerActivity, profile  # an import that few runs need

    here = [] if device_kind() == "cpu" else [ProfilerActivity.CUDA]
    # with one cycle nothing accumulates; without the word, torch 2.11 warns that it might
    return profile(activities=[ProfilerActivity.CPU, *here], acc_events=True)


def peak_bytes() -> tuple[int, int | None]:
    """(peak allocated, peak reserved) bytes. On a CPU: the process's peak resident size, and None."""
    if device_kind() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())


def bytes_in_use() -> int:
    """Allocated on the device now. On a CPU: resident in the process."""
    if device_kind() == "cpu":
        return int(psutil.Process().memory_info().rss)
    return int(torch.cuda.memory_allocated())

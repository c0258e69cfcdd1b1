"""Stands for torch_npu.npu. What transfer_to_npu puts into torch.cuda is every public name of this module."""

from __future__ import annotations

import contextlib
import os
import resource
import time
import types
from collections.abc import Callable, Iterator

import torch

from torch_npu.npu import amp, memory, random

NAME = os.environ.get("STAND_IN_NPU_NAME", "Ascend910B2")
_MEMORY_BYTES = int(60.96 * 2**30)  # what a card of 64 GB shows
_CPU = torch.device("cpu")

BFloat16Tensor, FloatTensor, HalfTensor = torch.BFloat16Tensor, torch.FloatTensor, torch.HalfTensor
NPUGraph = object


class Stream:
    """A queue of work: on a CPU, always done."""

    cuda_stream = npu_stream = 0

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def wait_stream(self, other: object) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True


class Event:
    """A point in a stream, as csrc/core/npu/NPUEvent.cpp has it."""

    made = 0

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        Event.made += 1
        self._enable_timing = enable_timing
        self._recorded: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Event) -> float:
        if self._recorded is None or end_event._recorded is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        if not (self._enable_timing and end_event._enable_timing):
            raise RuntimeError("aclrtEventElapsedTime: the event was made without enable_timing")
        return (end_event._recorded - self._recorded) * 1e3


_THE_STREAM = Stream()


@contextlib.contextmanager
def stream(_stream: object) -> Iterator[None]:
    yield


class device:
    """The context that makes a device the current one."""

    def __init__(self, _device: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_error: object) -> None: ...


def device_count() -> int:
    return int(os.environ.get("STAND_IN_NPU_COUNT", "16"))


def set_device(index: object) -> None:
    number = index if isinstance(index, int) else getattr(index, "index", None)
    if number is not None and not 0 <= number < device_count():
        raise RuntimeError(f"aclrtSetDevice: invalid device ID {number}")


def current_device() -> torch.device:
    return _CPU


def get_device_name(_device: object = None) -> str:
    return NAME


def get_device_properties(_device: object = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(name=NAME, total_memory=_MEMORY_BYTES, multi_processor_count=24, major=9, minor=0)


def get_device_capability(_device: object = None) -> None:
    return None


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def is_bf16_supported() -> bool:
    return True


def is_current_stream_capturing() -> bool:
    return False


def synchronize(_device: object = None) -> None: ...


def init() -> None: ...


def _lazy_init() -> None: ...


def _lazy_call(call: Callable[[], object], **_kwargs: object) -> None:
    call()


def empty_cache() -> None: ...


def ipc_collect() -> None: ...


def current_stream(_device: object = None) -> Stream:
    return _THE_STREAM


def default_stream(_device: object = None) -> Stream:
    return _THE_STREAM


def set_stream(_stream: object) -> None: ...


# ---- memory: the process's own, as nobody counts a CPU's tensors ----------------------------------------


def memory_allocated(_device: object = None) -> int:
    return int(open("/proc/self/statm", encoding="ascii").read().split()[1]) * resource.getpagesize()


def max_memory_allocated(_device: object = None) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_reserved(_device: object = None) -> int:
    return memory_allocated()


def max_memory_reserved(_device: object = None) -> int:
    return max_memory_allocated()


def reset_peak_memory_stats(_device: object = None) -> None: ...


def mem_get_info(_device: object = None) -> tuple[int, int]:
    return _MEMORY_BYTES - memory_allocated(), _MEMORY_BYTES


# ---- random numbers -------------------------------------------------------------------------------------


class _Generators:
    def __getitem__(self, _index: int) -> torch.Generator:
        return torch.default_generator


default_generators = _Generators()


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def get_rng_state(device: object = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: object = None) -> None:
    torch.set_rng_state(state)

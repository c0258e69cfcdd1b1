"""Stands for torch_npu.profiler: what it takes, writes and refuses; the events are torch's own.

As torch_npu/profiler/profiler.py: every method swallows its exceptions and prints a line; traces go to `.json` only;
there are no events to read.
"""

from __future__ import annotations

import enum
import functools
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch


class ProfilerActivity(enum.Enum):
    CPU = 0
    NPU = 1


class ProfilerAction(enum.Enum):
    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


class _ExperimentalConfig:
    def __init__(self, **_settings: object) -> None: ...


def supported_activities() -> set[ProfilerActivity]:
    return set(ProfilerActivity)


def _no_exception(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            print(f"[ERROR] profiler.py: Call {function.__name__} failed. Exception: {error}", file=sys.stderr)
            return None

    return call


_REAL = torch.profiler.profile


class _KinetoProfile:
    def __init__(self, *, activities: Iterable[ProfilerActivity] | None = None, **_settings: object) -> None:
        unknown = set(activities or ()) - supported_activities()
        if unknown:
            print("[WARN] Invalid activities, only CPU and NPU are supported, reset it to default.", file=sys.stderr)
        self._profile = _REAL(activities=[torch.profiler.ProfilerActivity.__members__["CPU"]])
        self._is_stopped = False

    @_no_exception
    def start(self) -> None:
        self._profile.start()

    @_no_exception
    def stop(self) -> None:
        self._profile.stop()
        self._is_stopped = True

    @_no_exception
    def export_chrome_trace(self, output_path: str) -> None:
        path = os.path.realpath(output_path)
        if not os.path.basename(path).endswith(".json"):
            raise RuntimeError("Invalid parameter output_path, which must be a json file.")
        self._profile.export_chrome_trace(path)

    @_no_exception
    def export_memory_timeline(self, output_path: str, device: str | None = None) -> None:
        raise RuntimeError("record_shapes=True, profile_memory=True required for memory profiling.")


class profile(_KinetoProfile):
    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def schedule(**_settings: int) -> Callable[[int], ProfilerAction]:
    return lambda step: ProfilerAction.RECORD


def tensorboard_trace_handler(dir_name: str | None = None, **_settings: object) -> Callable[[object], None]:
    return lambda profiled: None

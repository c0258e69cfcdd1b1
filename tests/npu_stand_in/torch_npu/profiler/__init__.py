"""Stands for torch_npu.profiler: behaves as its sources say (v2.7.1-26.0.0) and records with torch's own.

Imports nothing else of the stand-in, so that a test can load this file alone.

What it keeps of the real one, by file of torch_npu/profiler/:
- profiler.py: each method prints its errors and returns; `export_chrome_trace` refuses links, odd letters in a path and
  all names but .json; there is no `events`; raw data stay in the working directory unless a handler names a folder.
- _profiler_path_creator.py: the folder of raw data is made, and refused, when the profiler starts.
- analysis/prof_view/_trace_view_parser.py: a trace is made from raw data, is a bare list, and where that fails is
  absent, of which only the log knows.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import torch.profiler

_REAL = torch.profiler.profile  # transfer_to_npu puts the class below in its place
analysis_fails = False


class ProfilerActivity(Enum):
    CPU = 0
    NPU = 1


class ProfilerAction(Enum):
    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def schedule(**_settings: int) -> Callable[[int], ProfilerAction]:
    return lambda step: ProfilerAction.RECORD


def no_exception(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            print(f"[ERROR] profiler.py: Call {call.__name__} failed. Exception: {error}", flush=True)
            return None

    return wrapper


class _Paths:
    folder: str | None = None


@no_exception
def tensorboard_trace_handler(
    dir_name: str | None = None, worker_name: str | None = None, analyse_flag: bool = True, async_mode: bool = False
) -> Callable[[Any], None]:
    _Paths.folder = os.path.realpath(dir_name) if dir_name else None
    if _Paths.folder is not None:
        _check_path(_Paths.folder)

    def handler(profiler: profile) -> None:
        assert not analyse_flag, "would write a folder of tables that nobody asked for"

    return handler


class profile:  # the real one's name
    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], Any] | None = None,
        on_trace_ready: Callable[..., Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
        experimental_config: Any = None,
    ) -> None:
        assert set(activities or ()) == {ProfilerActivity.CPU, ProfilerActivity.NPU}
        self._on_trace_ready = on_trace_ready
        self._raw = ""
        self._torch = _REAL(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True)

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @no_exception
    def start(self) -> None:
        if self._on_trace_ready is None:
            _Paths.folder = None
        folder = _Paths.folder or os.path.join(os.getcwd(), "export_only_prof_dir")
        raw = os.path.join(folder, f"{socket.gethostname()}_{os.getpid()}_{time.time_ns()}_ascend_pt")
        _check_path(raw)
        os.makedirs(raw, mode=0o750)
        self._raw = raw
        self._torch.start()

    @no_exception
    def stop(self) -> None:
        self._torch.stop()
        self._torch.export_chrome_trace(os.path.join(self._raw, "torch.json"))
        if self._on_trace_ready is not None:
            self._on_trace_ready(self)

    @no_exception
    def export_chrome_trace(self, output_path: str) -> None:
        if os.path.islink(output_path):
            raise RuntimeError(f"Invalid input path is a soft chain: {output_path}")
        output_path = os.path.realpath(output_path)
        _check_path(output_path)
        if os.path.isdir(output_path):
            raise RuntimeError(f"Invalid input path is a directory path: {output_path}")
        if not os.path.basename(output_path).endswith(".json"):
            raise RuntimeError("Invalid parameter output_path, which must be a json file.")
        if not self._raw:
            print("[WARNING] profiler.py: Invalid profiling path.", flush=True)
            return
        raw = Path(self._raw, "torch.json")
        if analysis_fails or not raw.is_file():
            return  # a worker process failed, and its log says so
        Path(output_path).write_text(json.dumps(json.loads(raw.read_text())["traceEvents"]))


def _check_path(path: str) -> None:
    if len(path) > 4096 or any(len(name) > 255 for name in path.split("/")):
        raise RuntimeError("Length of input path exceeds the limit.")
    if not re.fullmatch(r"(\.|/|_|-|\s|[~0-9a-zA-Z]|[\u4e00-\u9fa5])+", path):
        raise RuntimeError(f"Invalid input path: {path}")

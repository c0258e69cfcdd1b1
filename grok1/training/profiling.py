"""A profile of chosen steps on chosen ranks: a Chrome or Perfetto trace, and where the time went by module.

A profiler that fails costs its profile and never the run: the first thing that went wrong is kept as one line.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from grok1 import files
from grok1.device import measuring
from grok1.distributed.scratch import SCRATCH
from grok1.training.job import ProfileRequest
from grok1.training.profiled_seconds import MODULE, module_seconds, operator_use
from grok1.training.result import CollectiveUse, ModuleSeconds, OperatorUse, StepProfile
from grok1.training.step import StepResult
from grok1.weights.chunks import chunks_of


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
        with _recorded(self._model) as recording:
            yield
            recording.stop()
            trace = recording.export(self._request.folder / f"rank-{self._rank}-step-{number + 1}.json.gz")
            modules, operators = recording.modules(), recording.operators()
        self._found.append(_Profiled(number, trace, modules, operators, recording.trouble))

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
                trouble=each.trouble,
            )
            for each in self._found
        ]


class _Profiled(NamedTuple):
    """What the profiler measured of one step, counted from 0."""

    step: int
    trace: str | None
    modules: dict[str, ModuleSeconds]
    operators: dict[str, OperatorUse]
    trouble: str | None


def profiled_modules(
    model: torch.nn.Module, take_step: Callable[[], object]
) -> tuple[dict[str, ModuleSeconds], str | None]:
    """Seconds of each module's own operators in the step, the largest first, and what went wrong with the profiler."""
    found = profiled_step(model, take_step)
    return found.modules, found.trouble


@dataclass(frozen=True)
class ProfiledStep:
    """Seconds of one step's modules and operators, the largest first, and what went wrong with the profiler."""

    modules: dict[str, ModuleSeconds]
    operators: dict[str, OperatorUse]
    trouble: str | None


def profiled_step(model: torch.nn.Module, take_step: Callable[[], object]) -> ProfiledStep:
    """What the profiler tells of the step: nothing on an NPU."""
    with _recorded(model) as recording:
        take_step()
        recording.stop()
        modules, operators = recording.modules(), recording.operators()
    return ProfiledStep(modules, operators, recording.trouble)


@contextmanager
def _recorded(model: torch.nn.Module) -> Iterator[_Recording]:
    """Profile what runs inside, and ask for what was found there too. Raises what the block raises, nothing else."""
    recording = _Recording()
    with named_modules(model):
        recording.start()
        try:
            yield recording
        finally:
            recording.close()


class _Recording:
    """A profiler whose failures are words in `trouble`: the first of them, since later ones follow from it."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._folder: Path | None = None
        self._profiler: measuring.Profiler | None = None
        self._is_running = self._has_stopped = False

    def start(self) -> None:
        with self._surviving("start"):
            self._folder = SCRATCH.new_folder("grok1-profile-")
            self._profiler = measuring.profiler(self._folder / "raw")
            self._profiler.start()
            self._is_running = True

    def stop(self) -> None:
        """No operator from here on is part of the profile; before this nothing can be read or exported."""
        if self._profiler is not None and self._is_running:
            self._is_running = False
            with self._surviving("stop"):
                self._profiler.stop()
                self._has_stopped = True

    def export(self, path: Path) -> str | None:
        """Write the trace, compressed, whole or not at all; the path, or None where there is no trace."""
        written = None
        if not self._has_stopped or self._profiler is None or self._folder is None:
            return written
        with self._surviving(f"write {path}"):
            # to a name that every profiler takes: torch_npu's refuses all but .json, and letters like + in a path
            plain = self._folder / "trace.json"
            self._profiler.export_chrome_trace(str(plain))
            if not plain.is_file() or not plain.stat().st_size:
                raise RuntimeError("it made no trace; its own messages say why")
            with plain.open("rb") as source, files.whole_file(path) as target, gzip.open(target, "wb") as packed:
                shutil.copyfileobj(source, packed)
            written = str(path)
        return written

    def modules(self) -> dict[str, ModuleSeconds]:
        found: dict[str, ModuleSeconds] = {}
        with self._surviving("tell of modules"):
            found = module_seconds(self._events())
        return found

    def operators(self) -> dict[str, OperatorUse]:
        found: dict[str, OperatorUse] = {}
        with self._surviving("tell of operators"):
            found = operator_use(self._events())
        return found

    def close(self) -> None:
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _events(self) -> list[FunctionEvent]:
        """The profiled operators. Empty where the profiler writes them to its own files, as torch_npu's does."""
        return list(getattr(self._profiler, "events", list)()) if self._has_stopped else []

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.trouble = self.trouble or f"the profiler could not {what}: {reason}"


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
        for path, module in (named for chunk in chunks_of(model) for named in chunk.named_modules()):
            inner = path.removeprefix("module").removeprefix(".")  # of the data-parallel wrapper
            name = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", inner) or "model"
            hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield

"""Counts what runs: operators, FLOPs, bytes, collectives and live memory, on real or fake tensors alike.

How operators are counted: bench.ledger.operators. Memory: live tensor storages (bench.ledger.live_memory).
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.ledger import operators
from bench.ledger.extension import Figures
from bench.ledger.live_memory import LiveMemory
from bench.ledger.marked_phases import MarkedPhases
from bench.ledger.running_module import RunningModule
from grok1.device.operands import device_asked_for
from grok1.device.storages import resizes_heard
from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import group_names

Answer = Callable[[Any, Any, Any, Any], Any]  # as __torch_dispatch__ of a mode: function, types, arguments, keywords
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@functools.cache
def _without_numbers(module: str) -> str:
    return _NUMBER.sub(".*", module) or "(outside the model)"


@dataclass
class Cost:
    """What some operators cost together."""

    calls: int = 0
    matrix_flops: int = 0
    vector_flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def add(self, matrix: int, vector: int, read: int, written: int) -> None:
        self.calls += 1
        self.matrix_flops += matrix
        self.vector_flops += vector
        self.bytes_read += read
        self.bytes_written += written


@dataclass
class Moved:
    """What some collectives moved together; bytes are of the larger side of each call."""

    calls: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Call:
    """One counted call of an operator; figures: matrix FLOPs, vector FLOPs, bytes read, bytes written."""

    func: Any
    args: Any
    kwargs: Any
    phase: str
    module: str
    figures: tuple[int, int, int, int]


@dataclass(frozen=True)
class Mark:
    """What was counted up to a moment of a step, and what is alive then, by kind."""

    costs: Figures  # calls, FLOPs and bytes by (phase, module)
    collectives: Figures  # calls and bytes by (phase, group, operation, dtype)
    alive: dict[str, int]


@dataclass
class Counts:
    """Everything since the meter was last reset."""

    costs: dict[tuple[str, str], Cost] = field(default_factory=lambda: defaultdict(Cost))  # (phase, module)
    collectives: dict[tuple[str, str, str, str], Moved] = field(default_factory=lambda: defaultdict(Moved))
    unknown: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peak_bytes: int = 0
    peak_at: tuple[str, str] = ("", "")
    peak_split: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[str, str, int]] = field(default_factory=list)  # (phase, module, most bytes while there)
    forwards: list[Mark] = field(default_factory=list)  # where each forward of the model began


class Meter(TorchDispatchMode):
    """A dispatch mode that counts while it is entered. Reset it between steps."""

    def __init__(self, phases: MarkedPhases) -> None:
        super().__init__()
        self.counts = Counts()
        self._phases = phases
        self._modules = RunningModule()
        self._memory = LiveMemory()
        self._groups: dict[Any, str] = {}
        self._entered = ExitStack()
        self._inside_calls = 0
        self._answer: Answer | None = None

    def over(self, answer: Answer) -> Meter:
        """Have calls answered by this mode's own function, which saves each of them a way through the dispatcher."""
        self._answer = answer
        return self

    def __enter__(self) -> Meter:
        self._groups = group_names()
        self._entered.enter_context(self._modules)
        self._entered.enter_context(resizes_heard(self._memory.resized))
        self._entered.enter_context(TRAFFIC.heard_by(self._hear, self._pause))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()
        self._answer = None

    def watch(self, model: torch.nn.Module) -> None:
        """Name the model's modules in what is counted from now on, and mark where each of its forwards begins."""
        self._modules.watch(model)
        model.register_forward_pre_hook(self._mark_forward)

    def reset(self) -> None:
        """Forget what was counted; what is alive stays known, and is what the peak starts from."""
        self.counts = Counts()
        self._note_memory((self._phase(), self._module()))

    def classify(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what live tensors are: weights, gradients, optimizer state. What is not said was made by the step."""
        for tensor in tensors:
            self._memory.see(tensor, kind)
            self._memory.rename(tensor, kind)

    def rename_all(self, kind: str) -> None:
        """Say that everything alive is of this kind."""
        self._memory.rename_all(kind)

    @property
    def bytes_alive(self) -> int:
        """Bytes of all kinds now."""
        return self._memory.bytes

    def live_bytes(self, kind: str) -> int:
        """Bytes of that kind now."""
        return self._memory.bytes_by_kind.get(kind, 0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch wraps each call so that no compiler sees it. None compiles what is counted."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = device_asked_for(func, args)
        if device is not None:
            return device
        kwargs = kwargs or {}
        out = func(*args, **kwargs) if self._answer is None else self._answer(func, types, args, kwargs)
        kind = operators.kind_of(func)
        if self._inside_calls or not kind.is_counted:
            return out
        touched = operators.touched(kind, args, kwargs, out)
        if touched is None:
            return out
        inputs, results = touched
        where = (self._phase(), self._module())
        for result in results:
            self._memory.see(result, "activations" if where[0] == "forward" else "temporary")
        self._note_memory(where)
        flops = operators.flops(func, kind.name, args, kwargs, inputs, results, out)
        if flops is None:
            self.counts.unknown[kind.name] += 1
        figures = (*(flops or (0, 0)), *operators.traffic(kind.name, inputs, results))
        self.counts.costs[where].add(*figures)
        self.heard(Call(func, args, kwargs, *where, figures))
        return out

    def heard(self, call: Call) -> None:
        """For a meter that keeps more of a call than its cost."""

    def mark(self) -> Mark:
        """What was counted up to now."""
        costs = {key: tuple(vars(cost).values()) for key, cost in self.counts.costs.items()}
        collectives = {key: tuple(vars(moved).values()) for key, moved in self.counts.collectives.items()}
        return Mark(costs, collectives, dict(self._memory.bytes_by_kind))

    def _mark_forward(self, _model: Any, _inputs: Any) -> None:
        self.counts.forwards.append(self.mark())

    def _phase(self) -> str:
        phase = self._phases.current
        # a module runs forward inside a backward where activations are computed again
        return "recompute" if phase == "backward" and self._modules.forward else phase

    def _module(self) -> str:
        """The innermost module, its layer and expert numbers left out."""
        name = self._modules.innermost(is_backward=self._phases.current == "backward")
        return _without_numbers(name)

    @contextmanager
    def _hear(self, operation: str, group: Any, num_bytes: int, dtype: torch.dtype | None) -> Iterator[None]:
        """Count a communication call; what its backend does with tensors meanwhile is the backend's own."""
        self._count_call(operation, group, num_bytes, dtype)
        with self._pause():
            yield

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self._inside_calls += 1
        try:
            yield
        finally:
            self._inside_calls -= 1

    def _count_call(self, operation: str, group: Any, num_bytes: int, dtype: torch.dtype | None) -> None:
        group = group if group is not None else torch.distributed.group.WORLD
        kind = self._groups.get(group, "other")
        if kind != "other" and group.size() == 1:
            return  # a group of one moves nothing
        key = (self._phase(), kind, operation, str(dtype).removeprefix("torch."))
        moved: Moved = self.counts.collectives[key]
        moved.calls += 1
        moved.bytes += num_bytes

    def _note_memory(self, where: tuple[str, str]) -> None:
        counts: Counts = self.counts
        live = self._memory.bytes
        if live > counts.peak_bytes:
            counts.peak_bytes, counts.peak_at = live, where
            counts.peak_split = dict(self._memory.bytes_by_kind)
        if counts.timeline and counts.timeline[-1][:2] == where:
            counts.timeline[-1] = (*where, max(live, counts.timeline[-1][2]))
        else:
            counts.timeline.append((*where, live))

"""Where the time of a profiled step went on a GPU: events as torch's own parser makes them of what kineto tells.

No GPU is needed: kineto's events are invented, and torch.autograd.profiler turns them into its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch.autograd.profiler
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import EventList, FunctionEvent

from grok1.training.profiled_seconds import module_seconds, operator_use


class KinetoEvent:
    """One of kineto's events: what a test says of it, and nothing else. Times in nanoseconds."""

    def __init__(self, name: str, start: int, end: int, **said: Any) -> None:
        defaults = {"device_type": DeviceType.CPU, "thread": 1, "id": 0, "linked": 0, "sequence": -1}
        self._said = SimpleNamespace(**{**defaults, "is_annotation": False, "is_async": False, **said})
        self._name, self._start, self._end = name, start, end

    def __getattr__(self, question: str) -> Any:
        said = self._said
        answers = {
            "name": self._name,
            "start_ns": self._start,
            "end_ns": self._end,
            "duration_ns": self._end - self._start,
            "device_type": said.device_type,
            "start_thread_id": said.thread,
            "end_thread_id": said.thread,
            "fwd_thread_id": 1,
            "correlation_id": said.id,
            "linked_correlation_id": said.linked,
            "sequence_nr": said.sequence,
            "is_async": said.is_async,
            "is_user_annotation": said.is_annotation,
            "stack": [],
            "shapes": [],
            "extra_meta": {},
            "overload_name": "",
        }
        return lambda: answers.get(question, 0)


@dataclass
class Cuda:
    """A program on a GPU that is profiled: marks, operators, launches and kernels, in the order of time."""

    told: list[KinetoEvent] = field(default_factory=list)
    kernel_ns: int = 0  # of all kernels together
    now: int = 0
    ids: int = 0

    def kernel(self, operator: int, nanoseconds: int, delay: int, stream: int) -> None:
        """One kernel, and the call that launches it. Kernels of different streams may run at once."""
        self.now += 1
        if operator:
            self.told.append(KinetoEvent("cudaLaunchKernel", self.now, self.now + 700, id=0, linked=operator))
        start = self.now + delay
        self.told.append(
            KinetoEvent(
                f"kernel on {stream}",
                start,
                start + nanoseconds,
                device_type=DeviceType.CUDA,
                thread=stream,
                linked=operator,
            )
        )
        self.kernel_ns += nanoseconds
        self.now += 700

    def around(self, name: str, inside: list[Part], **said: Any) -> None:
        """A stretch of the CPU's time with others inside; a mark comes back from the device too."""
        self.ids += 1
        start, own, at = self.now, self.ids, len(self.told)
        self.now += 10
        for part in inside:
            run(self, part, own)
        self.now += 10
        self.told.insert(at, KinetoEvent(name, start, self.now, id=own, **said))
        if said.get("is_annotation"):
            self.told.append(KinetoEvent(name, start, self.now + 10**6, **{**said, "device_type": DeviceType.CUDA}))

    def events(self) -> list[FunctionEvent]:
        """As `torch.profiler.profile.events()` gives them."""
        profiler = torch.autograd.profiler.profile.__new__(torch.autograd.profiler.profile)
        profiler.use_device = "cuda"
        told: Any = SimpleNamespace(events=lambda: self.told, trace_start_ns=lambda: 0)
        events = EventList(profiler._parse_kineto_results(told), use_device="cuda")
        events._build_tree()
        return list(events)


Part = tuple[Any, ...]


def run(cuda: Cuda, part: Part, operator: int) -> None:
    kind, *content = part
    if kind == "kernel":
        cuda.kernel(operator, *content)
    elif kind == "unlinked kernel":
        cuda.kernel(0, *content)
    elif kind == "module":
        cuda.around(f"module {content[0]}", content[1], is_annotation=True)
    elif kind == "operator":
        name, sequence, is_async, inside = content
        cuda.around(name, inside, sequence=sequence, is_async=is_async)
    else:
        number, inside = content
        name = "autograd::engine::evaluate_function: MmBackward0"
        cuda.around(name, [("operator", "MmBackward0", number, False, inside)], sequence=number)


NAMES = st.sampled_from(["layer", "experts", "router"])
KERNELS = st.tuples(
    st.sampled_from(["kernel", "kernel", "unlinked kernel"]),
    st.integers(1, 10**6),
    st.integers(0, 10**5),
    st.integers(7, 9),
)
PARTS: st.SearchStrategy[Part] = st.recursive(
    KERNELS,
    lambda inner: st.one_of(
        st.tuples(st.just("module"), NAMES, st.lists(inner, max_size=4)),
        st.tuples(
            st.just("operator"),
            st.sampled_from(["aten::mm", "aten::linear"]),
            st.integers(-1, 5),
            st.sampled_from([False, False, False, True]),
            st.lists(inner, max_size=4),
        ),
        st.tuples(st.just("backward"), st.integers(0, 5), st.lists(inner, max_size=4)),
    ),
    max_leaves=20,
)


@given(st.lists(PARTS, max_size=6))
def test_each_kernel_is_counted_once(parts: list[Part]) -> None:
    cuda = Cuda()
    for part in parts:
        run(cuda, part, operator=0)
    events = cuda.events()
    kernels = pytest.approx(cuda.kernel_ns * 1e-9, rel=1e-9, abs=1e-12)
    assert sum(each.forward + each.backward for each in module_seconds(events).values()) == kernels
    assert sum(each.seconds for each in operator_use(events).values()) == kernels


def test_a_kernel_belongs_to_the_module_that_launched_it_and_the_cpu_has_no_share() -> None:
    cuda = Cuda()
    product = ("operator", "aten::mm", 3, False, [("kernel", 5_000_000, 40, 7)])
    host_only: Part = ("operator", "aten::view", -1, False, [])
    graph = ("unlinked kernel", 1_000_000, 0, 7)
    for part in (("module", "layer", [product, host_only]), graph, ("backward", 3, [("kernel", 9_000_000, 0, 8)])):
        run(cuda, part, operator=0)
    events = cuda.events()
    modules = module_seconds(events)
    assert {name: each.forward for name, each in modules.items()} == pytest.approx(
        {"layer": 5e-3, "outside the modules": 1e-3}
    )
    assert {name: each.backward for name, each in modules.items()} == pytest.approx(
        {"layer": 9e-3, "outside the modules": 0.0}
    )
    operators = {name: each for name, each in operator_use(events).items() if each.seconds}
    assert {name: each.seconds for name, each in operators.items()} == pytest.approx(
        {"MmBackward0": 9e-3, "aten::mm": 5e-3, "kernel on 7": 1e-3}
    )
    assert {each.calls for each in operators.values()} == {1}

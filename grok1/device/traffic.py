"""Counts the collectives that this process issues: calls, bytes and seconds."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, cast

import torch
import torch.distributed as dist

from grok1.device import gloo
from grok1.device.gloo import Group
from grok1.device.measuring import Stamp, seconds_between, stamp

P = ParamSpec("P")
R = TypeVar("R")


class Listener(Protocol):
    """Hears of each communication call; the call is made inside the context that it returns."""

    def __call__(
        self, operation: str, group: Group, num_bytes: int, dtype: torch.dtype | None
    ) -> contextlib.AbstractContextManager[None]:
        """`num_bytes` as Traffic counts them; a group of None is the whole job."""
        ...


Pause = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass
class Communication:
    """What some collectives were together; bytes are of the larger side of each call."""

    seconds: float = 0.0
    calls: int = 0
    bytes: int = 0


class Traffic:
    """Counts the collectives that this process issues, with their bytes and their time.

    Bytes are those of the larger side of each call (the gathered output, the unreduced input).
    """

    def __init__(self) -> None:
        self.enabled = True  # off only to measure what counting costs
        # (bytes, start, end) of each call, by its operation and group; sorted out once a step, in `drain`
        self._calls: dict[tuple[str, Group], list[tuple[int, Stamp, Stamp]]] = defaultdict(list)
        self.listener: Listener | None = None  # hears of each call, pipeline sends and receives included

    @property
    def calls(self) -> int:
        """How many since the last drain."""
        return sum(map(len, self._calls.values()))

    def drain(self, group_names: Mapping[Group, str]) -> dict[str, Communication]:
        """What was issued since the last drain, by "group operation"; a group without a name is "other".

        Off the CPU, call after the device was synchronised.
        """
        drained: dict[str, Communication] = {}
        for (operation, group), calls in self._calls.items():
            sums = drained.setdefault(f"{group_names.get(group, 'other')} {operation}", Communication())
            sums.seconds += sum(seconds_between(start, end) for _, start, end in calls)
            sums.calls += len(calls)
            sums.bytes += sum(num_bytes for num_bytes, _, _ in calls)
        self.forget()
        return drained

    def forget(self) -> None:
        """Start again from nothing."""
        self._calls.clear()

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Count nothing meanwhile: to measure what counting costs."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    @contextlib.contextmanager
    def heard_by(self, listener: Listener, pause: Pause) -> Iterator[None]:
        """Tell the listener of every call meanwhile; waiting for one to end happens inside `pause()`.

        Patches `dist.Work.wait` for that long, torch 2.7 to 2.13, on any device: part of a reduction on gloo is tensor
        operators, some of which run while it is waited for.
        """
        classes: tuple[type, ...] = (dist.Work, gloo.Exchange)
        waits: dict[type, Callable[..., object]] = {each: vars(each)["wait"] for each in classes}

        def paused(wait: Callable[P, R]) -> Callable[P, R]:
            def call(*args: P.args, **kwargs: P.kwargs) -> R:
                with pause():
                    return wait(*args, **kwargs)

            return call

        self.listener = listener
        for each, wait in waits.items():
            each.wait = paused(wait)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.listener = None
            for each, wait in waits.items():
                each.wait = wait  # type: ignore[attr-defined]

    def add(self, operation: str, group: Group, num_bytes: int, start: Stamp, end: Stamp) -> None:
        """Note a call, `start` and `end` around it."""
        self._calls[operation, group].append((num_bytes, start, end))


TRAFFIC = Traffic()  # one a process, as torch.distributed itself is

_COUNTED = (
    "all_reduce",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "_all_gather_base",
    "_reduce_scatter_base",
    "all_gather",
    "reduce_scatter",
    "all_to_all_single",
    "broadcast",
)


def count_traffic() -> None:
    """Wrap torch.distributed's collectives, to count them. torch 2.7 to 2.13; all devices.

    megatron binds some at import, so this runs before megatron and before MindSpeed, which imports it.
    """
    for name in _COUNTED:
        original = getattr(dist, name, None)
        if original is not None:
            setattr(dist, name, _counted(original))
    dist.batch_isend_irecv = _heard(dist.batch_isend_irecv)  # type: ignore[assignment]


def _counted(original: Callable[P, R]) -> Callable[P, R]:
    operation = original.__name__

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if TRAFFIC.listener is not None:
            with TRAFFIC.listener(*_described(operation, args, kwargs)):
                return original(*args, **kwargs)
        if not TRAFFIC.enabled:
            return original(*args, **kwargs)
        start = stamp()
        result = original(*args, **kwargs)
        end = stamp()
        num_bytes = max(_bytes_of(args[0]), _bytes_of(args[1])) if len(args) > 1 else _bytes_of(args[0]) if args else 0
        for value in kwargs.values():
            num_bytes = max(num_bytes, _bytes_of(value))
        TRAFFIC.add(operation, _group_of(args, kwargs), num_bytes, start, end)
        return result

    call.__name__ = operation
    call.__wrapped__ = original  # type: ignore[attr-defined]
    return call


def _described(
    operation: str, args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[str, Group, int, torch.dtype | None]:
    """What a listener hears of a collective."""
    arguments = [*args, *kwargs.values()]
    tensors = [tensor for each in arguments for tensor in _tensors_of(each)]
    num_bytes = max(map(_bytes_of, [*args[:2], *kwargs.values()]), default=0)
    return operation, _group_of(args, kwargs), num_bytes, tensors[0].dtype if tensors else None


def _heard(original: Callable[[list[dist.P2POp]], R]) -> Callable[[list[dist.P2POp]], R]:
    """Tell the listener of each send and receive in a batch of them; its time is the pipeline phase's, not counted."""

    def call(operations: list[dist.P2POp]) -> R:
        listener = TRAFFIC.listener
        if listener is None:
            return original(operations)
        with contextlib.ExitStack() as stack:
            for each in operations:
                name = "send" if each.op in (dist.isend, dist.send) else "receive"
                stack.enter_context(listener(name, each.group, _bytes_of(each.tensor), each.tensor.dtype))
            return original(operations)

    call.__name__ = original.__name__
    call.__wrapped__ = original  # type: ignore[attr-defined]
    return call


def _group_of(args: Sequence[object], kwargs: Mapping[str, object]) -> Group:
    """The group that a collective was called on; None is the whole job."""
    if "group" in kwargs:
        return cast(Group, kwargs["group"])
    return next((each for each in args if isinstance(each, dist.ProcessGroup)), None)


def _tensors_of(argument: object) -> list[torch.Tensor]:
    items = argument if isinstance(argument, list | tuple) else [argument]
    return [item for item in items if isinstance(item, torch.Tensor)]


def _bytes_of(argument: object) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    if isinstance(argument, list | tuple):
        return sum(_bytes_of(item) for item in argument if isinstance(item, torch.Tensor))
    return 0

"""Counts the collectives that this process issues: calls, bytes and seconds.

Seconds are those for which communication holds this rank up: the call itself, and the wait for what was issued to run
beside other work. What that other work hides is not in them. On an accelerator both are stretches of the stream that
computes, which a wait makes wait; the host goes on. Sends and receives of the pipeline are a phase of their own.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, cast

import torch
import torch.distributed as dist

from grok1.device import gloo
from grok1.device.gloo import COALESCING, Group
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
    """What some collectives were together: seconds that they held this rank up, bytes of the larger side of each."""

    seconds: float = 0.0
    calls: int = 0
    bytes: int = 0


Collective = tuple[str, Group]  # an operation, and the group that it is among


class Traffic:
    """Counts the collectives that this process issues, with their bytes and their time.

    Bytes are those of the larger side of each call (the gathered output, the unreduced input). megatron calls some on
    groups of one rank, which move nothing and are not counted.
    """

    def __init__(self) -> None:
        self.enabled = True  # off only to measure what counting costs
        # (bytes, start, end) of each call, by its operation and group; sorted out once a step, in `drain`
        self._calls: dict[Collective, list[tuple[int, Stamp, Stamp]]] = defaultdict(list)
        self._waits: list[tuple[Collective, Stamp, Stamp]] = []
        self.latest: Collective | None = None  # of the calls, for what coalesces them
        self.listener: Listener | None = None  # hears of each call, pipeline sends and receives included

    @property
    def calls(self) -> int:
        """How many since the last drain."""
        return sum(map(len, self._calls.values()))

    def drain(self, group_names: Mapping[Group, str]) -> dict[str, Communication]:
        """What was issued since the last drain, by "group operation"; a group without a name is "other".

        Groups of one rank are left out, as in the ledger. Off the CPU, call after the device was synchronised.
        """
        drained: dict[str, Communication] = defaultdict(Communication)
        for (operation, group), calls in self._calls.items():
            if is_alone(group):
                continue
            sums = drained[f"{group_names.get(group, 'other')} {operation}"]
            sums.seconds += sum(seconds_between(start, end) for _, start, end in calls)
            sums.calls += len(calls)
            sums.bytes += sum(num_bytes for num_bytes, _, _ in calls)
        for (operation, group), start, end in self._waits:
            if is_alone(group):
                continue
            drained[f"{group_names.get(group, 'other')} {operation}"].seconds += seconds_between(start, end)
        self.forget()
        return dict(drained)

    def forget(self) -> None:
        """Start again from nothing."""
        self._calls.clear()
        self._waits.clear()

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

    def add(self, kind: Collective, num_bytes: int, start: Stamp, end: Stamp) -> None:
        """Note a call, `start` and `end` around it."""
        self._calls[kind].append((num_bytes, start, end))
        self.latest = kind

    @contextlib.contextmanager
    def waiting(self, kind: Collective | None) -> Iterator[None]:
        """Note that this rank waits inside for a collective that was counted."""
        if kind is None or not self.enabled:
            yield
            return
        start = stamp()
        yield
        self._waits.append((kind, start, stamp()))


TRAFFIC = Traffic()  # one a process, as torch.distributed itself is


def is_alone(group: Group) -> bool:
    """Whether this rank is all of the group."""
    return (group.size() if isinstance(group, dist.ProcessGroup) else dist.get_world_size()) == 1


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
    """Wrap torch.distributed's collectives and what coalesces them, to count them. torch 2.7 to 2.13; all devices.

    megatron binds some at import, so this runs before megatron and before MindSpeed, which imports it.
    """
    for name in _COUNTED:
        original = getattr(dist, name, None)
        if original is not None:
            setattr(dist, name, _counted(original))
    _hear_transfers()
    setattr(dist, COALESCING, _timed(getattr(dist, COALESCING)))


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
        kind = operation, _group_of(args, kwargs)
        TRAFFIC.add(kind, num_bytes, start, end)
        return result if result is None else cast(R, _Awaited(result, kind))

    call.__name__ = operation
    call.__wrapped__ = original  # type: ignore[attr-defined]
    return call


class _Awaited:
    """A collective under way, or several: the handle that torch gave, whose wait is timed."""

    def __init__(self, handle: object, kind: Collective | None) -> None:
        self._handle, self.kind = handle, kind

    def wait(self, *args: object, **kwargs: object) -> object:
        """Until this rank has its result, as the handle's own."""
        with TRAFFIC.waiting(self.kind):
            return cast(Handle, self._handle).wait(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._handle, name)

    @property  # type: ignore[misc]  # mypy takes __class__ for a plain attribute
    def __class__(self) -> type:
        """As the handle answers `isinstance`."""
        return type(self._handle)


class Handle(Protocol):
    """What an asynchronous collective returns."""

    def wait(self, *args: object, **kwargs: object) -> object:
        """Until this rank has its result."""
        ...


def _timed(
    original: Callable[P, contextlib.AbstractContextManager[object]],
) -> Callable[P, contextlib.AbstractContextManager[object]]:
    """Calls inside torch's coalescing manager are only taken down; they happen at its end, all of one kind."""

    @contextlib.contextmanager
    def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[object]:
        with contextlib.ExitStack() as end:
            awaited = _Awaited(end.enter_context(original(*args, **kwargs)), None)
            TRAFFIC.latest = None
            yield awaited
            awaited.kind = TRAFFIC.latest
            with TRAFFIC.waiting(awaited.kind):
                end.close()

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


def _hear_transfers() -> None:
    """Wrap the sends and receives of pipelines, alone or in a batch, which calls them by torch's own names."""
    for name, operation in (("isend", "send"), ("irecv", "receive")):
        heard = _heard(getattr(dist, name), operation)
        for module in (dist, dist.distributed_c10d):
            setattr(module, name, heard)


def _heard(original: Callable[P, R], operation: str) -> Callable[P, R]:
    """Tell the listener of a send or receive; its time is the pipeline phase's, not counted."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if TRAFFIC.listener is None:
            return original(*args, **kwargs)
        with TRAFFIC.listener(*_described(operation, args, kwargs)):
            return original(*args, **kwargs)

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

"""The phases of a step, timed through the hooks of megatron's own timers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grok1.device import measuring
from grok1.device.measuring import Stamp

# the parts that make up a step, none inside another
PHASES = ("data", "forward", "backward", "pipeline", "gradients", "optimizer", "report")

# megatron's own timer names; all the others it starts lie inside a part that is timed as a whole
_PHASE_OF_TIMER = {
    "forward-compute": "forward",
    "backward-compute": "backward",
    **dict.fromkeys(
        (
            "forward-recv",
            "forward-send",
            "backward-recv",
            "backward-send",
            "forward-send-backward-recv",
            "backward-send-forward-recv",
            "forward-send-forward-recv",
            "backward-send-backward-recv",
            "forward-backward-send-forward-backward-recv",
        ),
        "pipeline",
    ),
}


class PhaseTimers:
    """Takes the place of megatron's Timers. Maps its timers to our phases and does not synchronise the device."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[Stamp, Stamp]]] = {phase: [] for phase in PHASES}
        self._drained: dict[str, list[tuple[Stamp, Stamp]]] = {}
        self._ignored = _Span(None)
        self._by_timer = {timer: _Span(self._spans[phase]) for timer, phase in _PHASE_OF_TIMER.items()}

    def __call__(self, name: str, log_level: int | None = None) -> _Span:
        return self._by_timer.get(name, self._ignored)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one of our own phases."""
        start = measuring.stamp()
        yield
        self._spans[name].append((start, measuring.stamp()))

    def drain(self) -> dict[str, float]:
        """Seconds by phase since the last drain. Off the CPU, call it after the device was synchronised."""
        seconds = {}
        self._drained = {phase: spans[:] for phase, spans in self._spans.items()}
        for phase, spans in self._spans.items():
            seconds[phase] = sum(measuring.seconds_between(start, end) for start, end in spans)
            spans.clear()
        return seconds

    def timeline(self, origin: Stamp) -> list[tuple[float, float, str]]:
        """(start, end, phase) of every span that was last drained, in order of time, in seconds since a stamp."""
        return sorted(
            (measuring.seconds_between(origin, start), measuring.seconds_between(origin, end), phase)
            for phase, spans in self._drained.items()
            for start, end in spans
        )


class _Span:
    def __init__(self, spans: list[tuple[Stamp, Stamp]] | None) -> None:
        self._spans = spans
        self._start: Stamp | None = None

    def start(self, barrier: bool = False) -> None:
        if self._spans is not None:
            self._start = measuring.stamp()

    def stop(self, barrier: bool = False) -> None:
        if self._spans is not None:
            assert self._start is not None
            self._spans.append((self._start, measuring.stamp()))

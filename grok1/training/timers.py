"""The phases of a step, timed where megatron's own timers are asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grok1.device import measuring

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
        ),
        "pipeline",
    ),
}


class PhaseTimers:
    """Stands for megatron's Timers: sorts its timers into our phases, without synchronising the device."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[Any, Any]]] = {phase: [] for phase in PHASES}
        self._drained: dict[str, list[tuple[Any, Any]]] = {}
        self._ignored = _Span(None)
        self._by_timer = {timer: _Span(self._spans[phase]) for timer, phase in _PHASE_OF_TIMER.items()}

    def __call__(self, name: str, log_level: int | None = None) -> _Span:
        return self._by_timer.get(name, self._ignored)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of ours."""
        start = measuring.stamp()
        yield
        self._spans[name].append((start, measuring.stamp()))

    def drain(self) -> dict[str, float]:
        """Seconds by phase since the last drain; off the CPU, call after the device was synchronised."""
        seconds = {}
        self._drained = {phase: spans[:] for phase, spans in self._spans.items()}
        for phase, spans in self._spans.items():
            seconds[phase] = sum(measuring.seconds_between(start, end) for start, end in spans)
            spans.clear()
        return seconds

    def timeline(self, origin: Any) -> list[tuple[float, float, str]]:
        """(start, end, phase) of all that was last drained, in the order of time, in seconds since a stamp."""
        return sorted(
            (measuring.seconds_between(origin, start), measuring.seconds_between(origin, end), phase)
            for phase, spans in self._drained.items()
            for start, end in spans
        )


class _Span:
    def __init__(self, spans: list[tuple[Any, Any]] | None) -> None:
        self._spans = spans
        self._start: measuring.Stamp = 0.0

    def start(self, barrier: bool = False) -> None:
        if self._spans is not None:
            self._start = measuring.stamp()

    def stop(self, barrier: bool = False) -> None:
        if self._spans is not None:
            self._spans.append((self._start, measuring.stamp()))

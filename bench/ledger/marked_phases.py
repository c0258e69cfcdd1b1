"""Which phase of the step runs now."""

from __future__ import annotations

from typing import Any

from grok1.training.timers import PhaseTimers


class MarkedPhases(PhaseTimers):
    """The step's own phase marks, told to the meter as they pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def __call__(self, name: str, log_level: int | None = None) -> Any:
        span = super().__call__(name, log_level)
        phase = next((each for each, spans in self._spans.items() if span._spans is spans), None)
        return span if phase is None else _MarkedSpan(span, phase, self.stack)

    def phase(self, name: str) -> Any:
        return _MarkedPhase(super().phase(name), name, self.stack)

    @property
    def current(self) -> str:
        """The innermost phase that has begun and not ended."""
        return self.stack[-1] if self.stack else "between"


class _MarkedSpan:
    def __init__(self, span: Any, phase: str, stack: list[str]) -> None:
        self._span, self._phase, self._stack = span, phase, stack

    def start(self, barrier: bool = False) -> None:
        self._stack.append(self._phase)
        self._span.start(barrier)

    def stop(self, barrier: bool = False) -> None:
        self._span.stop(barrier)
        self._stack.remove(self._phase)


class _MarkedPhase:
    def __init__(self, context: Any, phase: str, stack: list[str]) -> None:
        self._context, self._phase, self._stack = context, phase, stack

    def __enter__(self) -> None:
        self._stack.append(self._phase)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        self._stack.remove(self._phase)

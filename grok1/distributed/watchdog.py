"""Ends a job that makes no progress: a rank that is stopped, or all ranks in one step for far longer than steps take.

Slow first steps, saving, profiling and whatever else is no step have no limit here. No torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grok1.device.process_state import is_stopped, is_traced
from grok1.distributed.failure import MAX_DETAILS, Failure
from grok1.distributed.progress import LEAST_SECONDS, Mark, read_mark, seconds_allowed
from grok1.distributed.stacks import Frame, ask_for_stacks, is_waiting, told

LOOK_SECONDS = 2.0


@dataclass
class _Clock:
    """Seconds that this process was awake for: Ctrl-Z stops the launcher and the ranks alike, and nobody hangs."""

    seconds: float = 0.0
    _last: float = 0.0

    def tick(self) -> float:
        """Take the time."""
        now = time.monotonic()
        if self._last:
            self.seconds += min(now - self._last, 5 * LOOK_SECONDS)
        self._last = now
        return self.seconds


class Watchdog:
    """Looks at this machine's ranks, every two seconds.

    `limit_seconds` without progress end the job; None: 20 times the slowest step, 30 s at least; 0: no limit.
    """

    def __init__(self, folder: Path, limit_seconds: float | None, node: str = "") -> None:
        self._folder, self._limit, self._node = folder, limit_seconds, node
        self._clock = _Clock()
        self._looked_at = 0.0
        self._marks: dict[int, Mark] = {}
        self._progress_at = 0.0
        self._stopped_at: dict[int, float] = {}

    def look(self, processes: Mapping[int, int]) -> list[Failure]:
        """What hangs: process ids by rank in, failures out; none while all is well."""
        if self._limit == 0 or time.monotonic() < self._looked_at + LOOK_SECONDS:
            return []
        self._looked_at = time.monotonic()
        now = self._clock.tick()
        self._note(processes, now)
        if any(is_traced(process) for process in processes.values()):
            self._progress_at, self._stopped_at = now, {}
            return []
        stopped = {rank for rank, since in self._stopped_at.items() if now - since >= (self._limit or LEAST_SECONDS)}
        if stopped or self._has_stalled(now):
            return self.accuse(processes)
        return []

    def _note(self, processes: Mapping[int, int], now: float) -> None:
        marks = {rank: read_mark(self._folder, rank) for rank in processes}
        if marks != self._marks:
            self._marks, self._progress_at = marks, now
        stopped = {rank for rank, process in processes.items() if is_stopped(process)}
        self._stopped_at = {rank: self._stopped_at.get(rank, now) for rank in stopped}

    def _has_stalled(self, now: float) -> bool:
        """Whether all ranks here are in a step for too long."""
        allowed = seconds_allowed(self._marks.values(), self._limit)
        return allowed is not None and now - self._progress_at >= allowed

    def accuse(self, processes: Mapping[int, int]) -> list[Failure]:
        """A failure of each rank here that keeps the others waiting; one of the whole node where all wait."""
        stopped = set(self._stopped_at)
        stacks = ask_for_stacks(self._folder, {rank: pid for rank, pid in processes.items() if rank not in stopped})
        guilty = stopped or {rank for rank, stack in stacks.items() if not is_waiting(stack)}
        seconds = self._clock.seconds - min([self._progress_at, *self._stopped_at.values()])
        text = f"where the ranks stood:\n{told(self._marks, stacks, stopped)}"
        if not guilty:
            return [self._failure("stalled", None, text, "the ranks here wait for others", seconds)]
        return [
            self._failure("hung", rank, text, _why(rank in stopped, stacks.get(rank, [])), seconds) for rank in guilty
        ]

    def _failure(self, kind: str, rank: int | None, text: str, why: str, seconds: float) -> Failure:
        line = f"no progress for {seconds:.0f} s: {why} (--progress-timeout sets the limit)"
        details = f"{text[: MAX_DETAILS - len(line) - 1]}\n{line}"
        return Failure.model_validate(
            {"kind": kind, "when": time.time(), "rank": rank, "node": self._node, "details": details}
        )


def _why(was_stopped: bool, stack: list[Frame]) -> str:
    if was_stopped:
        return "its process is stopped, as by SIGSTOP"
    return f"it hangs at {stack[0]}" if stack else "it hangs, and does not answer"

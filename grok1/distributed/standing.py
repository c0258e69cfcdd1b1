"""What hearts know of how far the ranks are, and where each stood when all made no progress.

The standard library alone, as `grok1.distributed.heart` is. What is known of a rank's process is read here, on its own
machine; what is known of all is put together on rank 0's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from grok1.device.process_state import is_stopped, is_traced
from grok1.distributed.progress import ASK, Mark, seconds_allowed, unpacked
from grok1.distributed.stacks import block, frames, grouped, is_waiting

_STACK_BYTES = 1 << 16
_MOST_CHARACTERS = 2000  # of where one rank stands
_NAMED = 8  # ranks in one line


@dataclass(frozen=True)
class Stand:
    """Where a rank stands."""

    state: str  # "stopped", "waits" for others, "works", or "silent": it does not answer
    place: str = ""  # as in "grok1/training/step.py:12 run"
    block: str = "does not answer"  # some lines for people


class OwnRank:
    """The rank beside this process: what it has said of itself in two files that both hold open."""

    def __init__(self, process: int, mark_file: int | None, stack_file: int | None) -> None:
        self._process, self._mark_file, self._stack_file = process, mark_file, stack_file
        self._before = 0

    def mark(self) -> Mark:
        """How far it is."""
        said = Mark() if self._mark_file is None else unpacked(os.pread(self._mark_file, _STACK_BYTES, 0))
        return replace(said, is_debugged=True) if is_traced(self._process) else said

    def ask(self) -> None:
        """Have it write its stack; `stand` reads it later."""
        if self._stack_file is not None and not is_stopped(self._process):
            self._before = os.fstat(self._stack_file).st_size
            os.kill(self._process, ASK)

    def stand(self) -> Stand | None:
        """Where it stands; None until it has answered."""
        if is_stopped(self._process):
            return Stand("stopped", "", block(self.mark(), [], is_stopped=True))
        text = b"" if self._stack_file is None else os.pread(self._stack_file, _STACK_BYTES, self._before)
        stack = frames(text)
        if not stack:
            return None
        told = block(self.mark(), stack, is_stopped=False)[:_MOST_CHARACTERS]
        return Stand("waits" if is_waiting(stack) else "works", str(stack[0])[:_MOST_CHARACTERS], told)


class Marks:
    """How far each rank of the job is, on rank 0's machine."""

    def __init__(self, ranks: int, limit_seconds: float | None) -> None:
        self._ranks, self._limit = ranks, limit_seconds
        self._marks: dict[int, Mark] = {}
        self._changed_at = 0

    def note(self, rank: int, mark: Mark, beat: int) -> None:
        """What is known of a rank at this beat."""
        if self._marks.get(rank) != mark:
            self._marks[rank] = mark
            self._changed_at = beat

    def forget(self, rank: int) -> None:
        """It is done, or gone."""
        self._marks.pop(rank, None)

    def stalled_seconds(self, beat: int, beat_seconds: float) -> float | None:
        """For how long no rank has gone on, if that is too long; never where one is not heard, or is done."""
        allowed = seconds_allowed(self._marks.values(), self._limit)
        seconds = (beat - self._changed_at) * beat_seconds
        if allowed is None or len(self._marks) < self._ranks or seconds < allowed:
            return None
        return seconds


def cause(stands: Mapping[int, Stand], names: Mapping[int, str], seconds: float) -> str:
    """Who keeps the others waiting, in words for the end of the job."""
    limit = "(--progress-timeout sets the limit)"
    stopped = [rank for rank, stand in stands.items() if stand.state == "stopped"]
    guilty = sorted(stopped or [rank for rank, stand in stands.items() if stand.state != "waits"])
    if not guilty:
        return f"no rank went on for {seconds:.0f} s: all wait for each other {limit}"
    first = stands[guilty[0]]
    told = ", ".join(names[rank] for rank in guilty[:_NAMED])
    more = f" and {len(guilty) - _NAMED} more" if len(guilty) > _NAMED else ""
    verb = "hangs" if len(guilty) == 1 else "hang"
    how = f"{verb} at {first.place}" if first.place else f"{verb}, and does not answer"
    if stopped:
        how = f"{'is' if len(guilty) == 1 else 'are'} stopped, as by SIGSTOP"
    return f"{told}{more} {how}; no rank went on for {seconds:.0f} s {limit}"


def told(stands: Mapping[int, Stand]) -> str:
    """Where the ranks stood: some lines for all that stood at the same place."""
    return f"where the ranks stood:\n{grouped({rank: stands[rank].block for rank in sorted(stands)})}"

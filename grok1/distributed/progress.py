"""Where a rank stands, said to its launcher without a message: some bytes of a file that both have mapped. No torch.

A message for each step would wake the launcher as often as there are ranks and steps. And a rank that hangs can still
be asked for its stack: a signal makes C code write it, whatever Python is waiting for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import signal
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FIELDS = struct.Struct("<qqd??")
_DEBUGGERS = ("debugpy", "pydevd")
ASK = signal.SIGUSR1  # makes a rank write its stack


@dataclass(frozen=True)
class Mark:
    """What a rank last said of itself."""

    count: int = 0  # of what it has said so far
    step: int = 0  # that it is in or was last in, from 0
    slowest_step_seconds: float = 0.0  # of those after the first, which may compile; 0: there is none yet
    is_in_step: bool = False
    is_debugged: bool = False  # by a debugger of Python's, which may stop it for as long as a person likes


class Progress:
    """This rank's marks. They go nowhere until there is a file."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._mark = Mark()
        self._steps = 0

    def write_to(self, folder: Path, rank: int) -> None:
        """Mark in this folder from now on, and write the stack there when asked."""
        with mark_path(folder, rank).open("w+b") as file:
            file.truncate(_FIELDS.size)
            self._map = mmap.mmap(file.fileno(), _FIELDS.size)
        self._mark, self._steps = Mark(), 0
        stack = stack_path(folder, rank).open("w", encoding="utf-8")  # kept open for the handler
        faulthandler.register(ASK, file=stack, all_threads=False)

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """While a step is computed; what takes long for good reasons, as saving does, stays outside."""
        started = time.monotonic()
        self._say(step, self._mark.slowest_step_seconds, is_in_step=True)
        yield
        self._steps += 1
        seconds = time.monotonic() - started if self._steps > 1 else 0.0
        self._say(step, max(seconds, self._mark.slowest_step_seconds), is_in_step=False)

    def _say(self, step: int, slowest_step_seconds: float, *, is_in_step: bool) -> None:
        debugged = sys.gettrace() is not None or any(name in sys.modules for name in _DEBUGGERS)
        self._mark = Mark(self._mark.count + 1, step, slowest_step_seconds, is_in_step, debugged)
        if self._map is not None:
            values = self._mark
            _FIELDS.pack_into(
                self._map, 0, values.count, values.step, values.slowest_step_seconds, is_in_step, debugged
            )


PROGRESS = Progress()  # of this process


def mark_path(folder: Path, rank: int) -> Path:
    """The file of a rank's marks."""
    return folder / f"mark-{rank}"


def stack_path(folder: Path, rank: int) -> Path:
    """The file of a rank's stack."""
    return folder / f"stack-{rank}"


def read_mark(folder: Path, rank: int) -> Mark:
    """What a rank has last said; an empty mark before it has said anything."""
    try:
        return Mark(*_FIELDS.unpack(mark_path(folder, rank).read_bytes()))
    except (OSError, struct.error):
        return Mark()

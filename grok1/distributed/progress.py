"""Where a rank stands, said to its launcher or its heart without a message: some bytes of a file that both have.

No torch.

A message for each step would wake the launcher as often as there are ranks and steps. And a rank that hangs can still
be asked for its stack: a signal makes C code write it, whatever Python is waiting for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_FIELDS = struct.Struct("<qqd??")
_DEBUGGERS = ("debugpy", "pydevd")
ASK = signal.SIGUSR1  # makes a rank write its stack
LEAST_SECONDS = 30.0  # without progress that end a job
STEPS_WITHOUT_PROGRESS = 20  # the slowest step so far, so many times


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
        self._stack: IO[bytes] | None = None
        self.descriptors: tuple[int, int] | None = None  # of a rank without a launcher: of its marks, and of its stack
        self._mark = Mark()
        self._steps = 0

    def write_to(self, folder: Path, rank: int) -> None:
        """Mark in this folder from now on, and write the stack there when asked."""
        with mark_path(folder, rank).open("w+b") as file:
            self._write(file, stack_path(folder, rank).open("w+b"))

    def write_here(self) -> None:
        """Mark in memory that a child of this process can be given, and write the stack there when asked."""
        marks, stack = _nameless_file("marks"), _nameless_file("stack")
        self._write(marks, stack)
        self.descriptors = os.dup(marks.fileno()), stack.fileno()
        marks.close()

    def _write(self, marks: IO[bytes], stack: IO[bytes]) -> None:
        marks.truncate(_FIELDS.size)
        self._map = mmap.mmap(marks.fileno(), _FIELDS.size)
        self._mark, self._steps = Mark(), 0
        self._stack = stack  # kept open for the handler
        faulthandler.register(ASK, file=stack.fileno(), all_threads=False)

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
        return unpacked(mark_path(folder, rank).read_bytes())
    except OSError:
        return Mark()


def unpacked(content: bytes) -> Mark:
    """The mark that a file holds; an empty one where it holds none yet."""
    try:
        return Mark(*_FIELDS.unpack(content))
    except struct.error:
        return Mark()


def seconds_allowed(marks: Collection[Mark], limit_seconds: float | None) -> float | None:
    """How long ranks that stand so may stay there; None: as long as they like.

    There is a limit where all are in a step, none is held by a debugger, and it is known how long steps take. It is
    `limit_seconds`, or goes by the slowest step.
    """
    slowest = max((mark.slowest_step_seconds for mark in marks), default=0.0)
    if not slowest or not all(mark.is_in_step for mark in marks) or any(mark.is_debugged for mark in marks):
        return None
    return limit_seconds or max(LEAST_SECONDS, STEPS_WITHOUT_PROGRESS * slowest)


def _nameless_file(name: str) -> IO[bytes]:
    """In memory where the system has that: nothing is left of it, however the process ends."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(f"grok1-{name}"), "w+b")
    return tempfile.TemporaryFile()

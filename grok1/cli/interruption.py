"""Ctrl-C and SIGTERM: one line, the exit code that shells expect, and no process left.

A command watches from its first line on, before the imports that take seconds, so this imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_END_SECONDS = 3.0
_came: signal.Signals | None = None  # what told this process to end


def end_at_once(name: str, before: Callable[[], None] = lambda: None) -> None:
    """From now on a signal ends this process where it stands: for times at which nothing needs to be tidied up.

    `before` is called first.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        _note(number)
        before()
        leave(name)

    _handle(end)


def unwind() -> None:
    """From now on a signal raises KeyboardInterrupt, so that whoever holds ranks or half-written files lets them go."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        _note(number)
        raise KeyboardInterrupt

    _handle(interrupt)


def came() -> bool:
    """Whether a signal has told this process to end. What C code makes of the exception may be another one."""
    return _came is not None


def exit_code() -> int:
    """128 and the signal's number, as shells have it."""
    return 128 + (_came or signal.SIGINT)


def told() -> str:
    """What a person reads of it."""
    return f"{_SIGNALS[_came or signal.SIGINT]}; all processes were ended"


def leave(name: str) -> NoReturn:
    """Say so in one line and end with all that was started, skipping what Python and its libraries do at their end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_children()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        print(f"{name}: {told()}", file=sys.stderr, flush=True)
    os._exit(exit_code())


def end_children() -> None:
    """Kill whatever this process started and what that started in turn: a forkserver may be in its imports."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, timeout=_END_SECONDS)


def _note(number: int) -> None:
    global _came
    _came = _came or signal.Signals(number)


def _handle(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background commands want it
            signal.signal(number, handler)

"""How a command line of ours ends: exit codes, one line for bad input, no trace of Ctrl-C. No torch.

Messages hold words that strangers wrote (a file's, a log's, a name's). What is printed here steers no terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperOption

from grok1.config.refusals import printable, printable_lines

Function = TypeVar("Function", bound=Callable[..., Any])

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_READER_GONE = 141  # 128 + SIGPIPE


class App(typer.Typer):
    """Commands that refuse an option given twice, where the first value would be dropped without a word."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """As typer's."""
        return super().command(name, **{"cls": _OneValueEach, **settings})


class _OneValueEach(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, in_turn = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(in_turn).items():
            takes_one = isinstance(option, TyperOption) and not (option.multiple or option.is_flag or option.count)
            if takes_one and times > 1:
                name = max(option.opts, key=len)
                raise ValueError(f"{name} is given {times} times, and only one can count; give it once")
        return list(super().parse_args(ctx, args))


def run(app: typer.Typer, name: str, failures: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Run a command and exit: 0 done, 2 the input was refused, 130 interrupted; 1 where the command says so.

    `failures` are errors whose message says all there is to say: it is printed, and 1 is the exit code. What the
    system refuses (a full disk, a folder that may not be written) is one line too, and the exit code is 2.
    """
    # a job that is told to end must end its ranks as if interrupted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 is shown, not refused
    try:
        # typer returns the exit code of what it caught itself, Ctrl-C included
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        _leave(name, code or 0)
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted; all processes were ended", file=sys.stderr)
        _leave(name, _INTERRUPTED)
    except typer.Exit as done:
        _leave(name, done.exit_code)
    except failures as error:
        if not isinstance(error, ValueError | OSError):
            print(f"{name}: {printable_lines(str(error))}", file=sys.stderr)
            _leave(name, 1)
        _exit_for(name, error)
    except Exception as error:
        _exit_for(name, error)


def _exit_for(name: str, error: Exception) -> NoReturn:
    if isinstance(error, ValueError):
        _refuse(name, str(error))
    if isinstance(error, BrokenPipeError):
        _leave(name, _READER_GONE)
    if isinstance(error, OSError):
        if error.filename is None:
            _flush(name)
        where = "its output" if error.filename is None else os.fsdecode(error.filename)
        _refuse(name, f"{where}: {error.strerror or error}")
    _exit_for_usage(name, error)


def _refuse(name: str, message: str) -> NoReturn:
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    _leave(name, 2)


def _exit_for_usage(name: str, error: Exception) -> NoReturn:
    """Typer's own complaints (an unknown option, a bad number) print as they do by default; others are ours to fix."""
    show = getattr(error, "show", None)
    if show is None:
        print(printable_lines("".join(traceback.format_exception(error))), file=sys.stderr, end="")
        _leave(name, 1)
    words = io.StringIO()
    show(words)
    print(printable_lines(words.getvalue()), file=sys.stderr, end="")
    _leave(name, getattr(error, "exit_code", 2))


def _leave(name: str, code: int) -> NoReturn:
    _flush(name)
    sys.exit(code)


def _flush(name: str) -> None:
    """All that was printed goes out; a disk that is full ends us, and so does a reader that has gone, in silence."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
        if isinstance(error, BrokenPipeError):
            sys.exit(_READER_GONE)
        print(f"{name}: standard output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(2)

"""How a command line of ours ends: exit codes, one line for bad input, no trace of Ctrl-C. No torch."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import typer

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run(app: typer.Typer, name: str, failures: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Run a command and exit: 0 done, 2 the input was refused, 130 interrupted; 1 where the command says so.

    `failures` are errors whose message says all there is to say: it is printed, and 1 is the exit code.
    """
    # a job that is told to end must end its ranks as if interrupted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # typer returns the exit code of what it caught itself, Ctrl-C included
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted; all processes were ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except ValueError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except failures as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        _exit_for_usage(error)


def _exit_for_usage(error: Exception) -> NoReturn:
    """Typer's own complaints (an unknown option, a bad number) print as they do by default; others are ours to fix."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    sys.exit(getattr(error, "exit_code", 2))

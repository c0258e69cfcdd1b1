"""`grok1`: the commands stand in grok1/commands, one file each or two that belong together."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from grok1.cli import interruption


def main() -> None:
    """Entry point: 0 done, 1 the run failed, 2 the input was refused, 130 interrupted, 143 terminated."""
    interruption.end_at_once("grok1")  # the imports take a second
    from grok1.cli import console
    from grok1.commands.app import app

    try:
        console.run(app, "grok1", failures=(RuntimeError,))
    except SystemExit as end:
        if "grok1.training.run" in sys.modules:  # this process was itself a rank
            _leave(end.code)
        raise


def _leave(code: Any) -> NoReturn:
    """End at once: while Python takes itself apart, a gloo thread that lets go of its last tensor aborts the process.

    A race that is known and open: pytorch/pytorch issue 190489. The launcher's ranks end like this too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()

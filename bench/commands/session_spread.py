"""The option --session-spread of the commands that judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.history.store import FILE_NAME

HISTORY = Path("results") / FILE_NAME
SessionSpread = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT|history|FILE",
        help="The level between sessions to assume where a baseline cannot say, one standard deviation. Default: 1.2 "
        "on accelerators, 3 on a CPU, 20 on that of a virtual machine. history: from results/history.jsonl; or a file "
        "like it (*.jsonl).",
    ),
]

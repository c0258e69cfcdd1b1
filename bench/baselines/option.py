"""The option of every command that reads stored baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import places

Baselines = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder of stored baselines.",
        default_factory=places.baselines,
        show_default="baselines/, else the shipped ones",
    ),
]

"""The option --json, the same in every command: the result as JSON, in a file or alone on standard output."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from grok1 import files

Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="PATH",
        help="Write the result as JSON to this file, whole or not at all. -: to standard output, and text to stderr.",
    ),
]
_NAME = "json_path"  # of the parameter, in every command
_STANDARD_OUTPUT = Path("-")


@contextlib.contextmanager
def json_alone_on_stdout(values: dict[str, Any]) -> Iterator[None]:
    """Where a command's values have `--json -`, nothing but the JSON goes to standard output, when the block ends.

    The command writes a file as always.
    """
    if values.get(_NAME) != _STANDARD_OUTPUT:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="grok1-json-") as folder:
        values[_NAME] = Path(folder) / _STANDARD_OUTPUT
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            if values[_NAME].exists():
                sys.stdout.write(values[_NAME].read_text(encoding="utf-8"))


def write_json(path: Path | None, content: object) -> None:
    """What a command found, as plain data, where --json is given. A number that is none becomes null."""
    if path is not None:
        files.write_json(path, content)

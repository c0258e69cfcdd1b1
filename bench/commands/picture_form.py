"""The form of a picture, by the name of its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.records.terminal import plain

if TYPE_CHECKING:
    from reports.picture import Form


def form_of(option: str, picture: Path) -> Form:
    """Of the file that an option names.

    Raises:
        ValueError: its name ends as neither.
    """
    if picture.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{option} {plain(picture, 5000)}: a picture is a .png or .svg file; give a name that ends so")
    return "svg" if picture.suffix.lower() == ".svg" else "png"

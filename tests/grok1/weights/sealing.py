"""What someone does who changes a checkpoint's files and makes the checksums fit again."""

from __future__ import annotations

from pathlib import Path

from grok1.megatron.installed import megatron_line
from grok1.weights.manifest import MANIFEST, Manifest, file_sums, write_manifest


def seal_again(step_folder: Path) -> None:
    """Give a step's folder a manifest of the files that it now holds."""
    (step_folder / MANIFEST).unlink(missing_ok=True)
    if not any(path.is_file() for path in step_folder.iterdir()):
        (step_folder / "common.pt").touch()  # a manifest names at least one
    names = [path.name for path in step_folder.iterdir() if path.is_file()]
    files = file_sums(step_folder, names)
    step = int(step_folder.name.removeprefix("iter_"))
    write_manifest(step_folder, Manifest(step=step, recipe_hash="", files=files, megatron=megatron_line()))

"""`grok1 convert` and `grok1 seal`: weights in other formats, and checksums of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.options import Overrides
from grok1.cli.outputs import Filled
from grok1.config.load import load_recipe
from grok1.config.refusals import printable

_PUBLISHED = "grok1-314b"  # the recipe of what xAI published
_SHARD_GIB = 5.0
CHECKPOINT_FILES = ("iter_*", "latest_checkpointed_iteration.txt")  # of a folder that --save writes to


def own_weights(values: Mapping[str, Any]) -> Iterator[Filled]:
    """All of the new folder."""
    yield Filled("TARGET", values["target"], ("*",))


def own_checkpoint(values: Mapping[str, Any]) -> Iterator[Filled]:
    """The checkpoints of a folder."""
    yield Filled("FOLDER", values["folder"], CHECKPOINT_FILES)


def convert(
    source: Annotated[Path, typer.Argument(help="A folder of safetensors, or a folder of checkpoints.")],
    target: Annotated[Path, typer.Argument(help="A new folder for the other format.")],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help=f"Of the safetensors, to a checkpoint; default: {_PUBLISHED}."),
    ] = None,
    overrides: Overrides = None,
    shard_gib: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", help=f"Size limit of a written safetensors file; default: {_SHARD_GIB:g}.", min=0.001
        ),
    ] = None,
    json_path: Json = None,
) -> None:
    """Published weights (safetensors, hpcai-tech/grok-1's names) into a checkpoint for any layout, or back.

    Streams: no more than one shard is in memory. Dtypes stay, so a round trip is bitwise. --recipe is that of the
    safetensors; a checkpoint has its own.
    """
    from grok1.cli.progress import conversion
    from grok1.weights.folder import holds_checkpoint

    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give one of safetensors files, or a checkpoint's")
    from grok1.weights.exporting import export_weights
    from grok1.weights.importing import import_weights

    is_export = holds_checkpoint(source)
    if is_export and (recipe is not None or overrides):
        raise ValueError(f"--recipe and --set are of safetensors, and {source} is a checkpoint with its own recipe")
    if not is_export and shard_gib is not None:
        raise ValueError(
            "--shard-gib is the size of written safetensors, and a checkpoint is written here; leave it out"
        )
    with conversion(f"{source.name} to {target.name}") as progress:
        if is_export:
            export_weights(source, target, int((shard_gib or _SHARD_GIB) * 2**30), progress)
        else:
            import_weights(source, target, load_recipe(recipe or _PUBLISHED, overrides or []), progress)
    print(f"wrote {printable(str(target))}")
    made = "safetensors" if is_export else "checkpoint"
    write_json(json_path, {"schema": 1, "source": str(source), "target": str(target), "made": made})


def seal(
    folder: Annotated[Path, typer.Argument(help="The folder that `grok1 train --save DIR` wrote.")],
    json_path: Json = None,
) -> None:
    """Write the checksums of a checkpoint that has none, because it is older than they are. Look at it first."""
    from grok1.weights.folder import seal as write_checksums

    step = write_checksums(folder)
    print(f"wrote the checksums of step {step} in {folder}")
    write_json(json_path, {"schema": 1, "folder": str(folder), "step": step})

"""A folder of checkpoints as it lies on disk: which steps it holds, and the recipe that wrote them. No torch.

It holds iter_0000010/ (megatron's files and recipe.json), one for each saved step, and
latest_checkpointed_iteration.txt. A checkpoint of no steps, iter_0000000/, holds weights alone: they came from
elsewhere. Megatron's own files in it are pickles: load only checkpoints that you trust.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe

LATEST = "latest_checkpointed_iteration.txt"
WEIGHTS_ONLY_STEP = 0

_MAX_RECIPE_BYTES = 64 * 1024  # a resolved recipe needs 2 KiB


def step_folder(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies."""
    return folder / f"iter_{step:07d}"


def latest_step(folder: Path) -> int:
    """Number of steps that the newest complete checkpoint has behind it.

    Raises:
        ValueError: there is none, or the file that names it is damaged.
    """
    tracker = folder / LATEST
    if not tracker.is_file():
        raise ValueError(f"{folder} holds no checkpoint ({LATEST} is missing); give the folder that --save wrote")
    text = tracker.read_bytes()[:32].decode("utf-8", "replace").strip()
    # decimal digits of other scripts are digits to int() as well, but never ours
    if not (text.isascii() and text.isdecimal()) or not step_folder(folder, int(text)).is_dir():
        raise ValueError(f"{tracker} names step {text!r}, whose folder is not there; write an existing step into it")
    return int(text)


def stored_recipe(folder: Path) -> Recipe:
    """The recipe that wrote the newest checkpoint.

    Raises:
        ValueError: there is no checkpoint, or its recipe is damaged.
    """
    path = step_folder(folder, latest_step(folder)) / "recipe.json"
    return build_recipe(f"checkpoint recipe {path}", _fields(path))


def _fields(path: Path) -> dict[str, Any]:
    remedy = "copy the checkpoint again, whole"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RECIPE_BYTES + 1)
        fields = json.loads(content.decode("utf-8")) if len(content) <= _MAX_RECIPE_BYTES else None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a recipe in JSON of at most {_MAX_RECIPE_BYTES} bytes; {remedy}")
    return fields

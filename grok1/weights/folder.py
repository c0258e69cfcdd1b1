"""A folder of checkpoints as it lies on disk: which steps it holds, and the recipe that wrote them. No torch.

It holds iter_0000010/ (megatron's files and recipe.json), one for each saved step, and
latest_checkpointed_iteration.txt. The checkpoint of step 0, iter_0000000/, holds imported weights
and nothing else. Some of megatron's own files are pickles: load only checkpoints that you trust.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe
from grok1.files import write_text

LATEST = "latest_checkpointed_iteration.txt"
WEIGHTS_ONLY_STEP = 0

_RECIPE_NAME = "recipe.json"
_MAX_RECIPE_BYTES = 64 * 1024  # a resolved recipe needs 2 KiB


@dataclass(frozen=True)
class StoredCheckpoint:
    """The newest complete checkpoint of a folder, as `open` found it. Plain data, which can travel to ranks."""

    folder: Path  # of all its steps: what --load names
    step: int  # training steps behind it
    recipe: Recipe  # that wrote it

    @classmethod
    def open(cls, folder: Path) -> StoredCheckpoint:
        """Read the two small files that describe it, each once.

        Raises:
            ValueError: there is no checkpoint, or one of the files is damaged.
        """
        step = _latest_step(folder)
        path = step_folder(folder, step) / _RECIPE_NAME
        return cls(folder, step, build_recipe(f"checkpoint recipe {path}", _fields(path)))

    @property
    def step_folder(self) -> Path:
        """Where megatron's files lie."""
        return step_folder(self.folder, self.step)

    @property
    def has_weights_only(self) -> bool:
        """Whether it was imported, so that there is no optimizer state."""
        return self.step == WEIGHTS_ONLY_STEP

    def check_resumable(self, recipe: Recipe) -> None:
        """Refuse a recipe that cannot resume from here: the model must match, with optimizer state the layout too.

        Raises:
            ValueError: names the first value that differs.
        """
        advice = "use the recipe it was written with"
        self.check_model(recipe, advice)
        if not self.has_weights_only:
            self._check_section("parallel", recipe, advice)
            self._check_experts(recipe)

    def check_model(self, recipe: Recipe, advice: str) -> None:
        """Refuse a recipe of another model; `advice` ends the message.

        Raises:
            ValueError: names the first value that differs.
        """
        self._check_section("model", recipe, advice)

    def _check_section(self, section: str, recipe: Recipe, advice: str) -> None:
        stored = self.recipe.resolved()[section]
        for key, value in recipe.resolved()[section].items():
            if stored[key] != value:
                raise ValueError(
                    f"checkpoint {self.folder} was written with {section}.{key}={stored[key]}, the recipe "
                    f"says {value}; {advice}"
                )

    def _check_experts(self, recipe: Recipe) -> None:
        """Grouped experts are stored transposed, so their optimizer state fits no others; the other two kinds match."""
        stored, wanted = self.recipe.kernels.experts, recipe.kernels.experts
        if (stored == "grouped") != (wanted == "grouped"):
            raise ValueError(
                f"checkpoint {self.folder} was written with kernels.experts={stored}, the recipe says {wanted}, whose "
                f"optimizer state has another shape; resume with kernels.experts={stored}"
            )


def holds_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a finished step."""
    return (folder / LATEST).exists()


def partial_folder(folder: Path, step: int) -> Path:
    """Where the files of a step go until all of them are written."""
    final = step_folder(folder, step)
    return final.with_name(f"{final.name}.partial")


def start_step(folder: Path, step: int) -> Path:
    """Make the partial folder of a step, empty. One process does this before any of them writes."""
    partial = partial_folder(folder, step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish_step(folder: Path, step: int, recipe: Recipe) -> None:
    """Give a step's partial folder its recipe and its name, and make it the newest. One process, after all wrote."""
    partial, final = partial_folder(folder, step), step_folder(folder, step)
    write_text(partial / _RECIPE_NAME, json.dumps(recipe.resolved(), indent=2))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    write_text(folder / LATEST, str(step))


def step_folder(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies."""
    return folder / f"iter_{step:07d}"


def _latest_step(folder: Path) -> int:
    tracker = folder / LATEST
    if not tracker.is_file():
        raise ValueError(f"{folder} holds no checkpoint ({LATEST} is missing); give the folder that --save wrote")
    text = tracker.read_bytes()[:32].decode("utf-8", "replace").strip()
    # int() also takes the decimal digits of other scripts, which we never write
    if not (text.isascii() and text.isdecimal()) or not step_folder(folder, int(text)).is_dir():
        raise ValueError(f"{tracker} names step {text!r}, whose folder is not there; write an existing step into it")
    return int(text)


def _fields(path: Path) -> dict[str, object]:
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

"""A folder of checkpoints as it lies on disk: which steps it holds, and the recipe that wrote them. No torch.

It holds iter_0000010/ (megatron's files, recipe.json and manifest.json, see grok1.weights.manifest), one for each
saved step, and latest_checkpointed_iteration.txt. The checkpoint of step 0, iter_0000000/, holds imported weights and
nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import printable, quoted
from grok1.config.sections import Data, Training
from grok1.files import write_text
from grok1.megatron.installed import FIRST_LINE, megatron_line, resumes_in_any_layout
from grok1.weights.manifest import (
    MANIFEST,
    FileSum,
    Manifest,
    check_content,
    check_files,
    file_sums,
    read_at_most,
    read_manifest,
    write_manifest,
)

LATEST = "latest_checkpointed_iteration.txt"
WEIGHTS_ONLY_STEP = 0
CORPUS = "data.corpus"  # named like a key of the recipe: the text itself
TOKENIZER = "data.tokenizer"  # the same: the content of its files
LAYOUT = "parallel"  # the section, which may change as a whole

_COPY_AGAIN = "copy the checkpoint again, whole"
# change no number; but for norms that are recomputed in fp32, which sum a gradient in another order
_FREE_KEYS = tuple(f"training.recompute{end}" for end in ("", "_method", "_layers", "_modules"))
_EXPERTS_APART = {"grouped", "te_grouped"}  # whose optimizer state fits no other experts
_FIXED_KEYS = ("training.dtype",)  # the optimizer's state has another shape

_LEFT_SECONDS = 3600.0  # a partial folder in which nothing was written for so long is a dead job's
_RECIPE_NAME = "recipe.json"
_MAX_RECIPE_BYTES = 64 * 1024  # a resolved recipe needs 2 KiB
_FORMAT_NAME = "metadata.json"  # it chooses which code of megatron's reads the rest
MEGATRON_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_FORMATS = (  # megatron-core 0.19 has no common file, and does not name its format
    MEGATRON_FORMAT,
    {key: value for key, value in MEGATRON_FORMAT.items() if key.startswith("sharded_")},
)


@dataclass(frozen=True)
class StoredCheckpoint:
    """The newest complete checkpoint of a folder, as `open` found it. Plain data, which can travel to ranks."""

    folder: Path  # of all its steps: what --load names
    step: int  # training steps behind it
    recipe: Recipe  # that wrote it
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> StoredCheckpoint:
        """Read the small files that describe it; `verify` reads the others.

        Raises:
            ValueError: there is no checkpoint, or one of the files is missing or damaged.
        """
        step = _latest_step(folder)
        where = step_folder(folder, step)
        manifest = read_manifest(where, step)
        return cls(folder, step, _recipe(where, manifest), manifest)

    def verify(self) -> None:
        """Compare every file with its checksum: call it once a node, before anything is loaded.

        Raises:
            ValueError: one line that names each file that is missing, extra, cut short or changed.
        """
        check_files(self.step_folder, self.manifest)
        path = self.step_folder / _FORMAT_NAME
        if _fields(path, _content(path), "format") not in _FORMATS:
            raise ValueError(f"{path} names another format than torch_dist; {_COPY_AGAIN}")

    @property
    def step_folder(self) -> Path:
        """Where megatron's files lie."""
        return step_folder(self.folder, self.step)

    @property
    def has_weights_only(self) -> bool:
        """Whether it was imported, so that there is no optimizer state."""
        return self.step == WEIGHTS_ONLY_STEP

    def check_resumable(
        self, recipe: Recipe, corpus: str = "", allowed: Sequence[str] = (), tokenizer: str = ""
    ) -> None:
        """Refuse what cannot continue the run that wrote this; imported weights need the same model and no more.

        With optimizer state, megatron's line must match too, and the layout and what decides the numbers of a step: the
        training and data sections, the corpus and the tokenizer, whose digests are empty where they are not known.
        `allowed` names what may differ of the layout and those.

        Raises:
            ValueError: names the values that differ.
        """
        advice = "use the recipe it was written with"
        self.check_model(recipe, advice)
        if self.has_weights_only:
            return
        self._check_line()
        self._check_layout(recipe, is_allowed=LAYOUT in allowed)
        self._check_experts(recipe)
        differences = self._differences(recipe, {CORPUS: corpus, TOKENIZER: tokenizer})
        refused = [key for key in differences if key not in (*allowed, *_FREE_KEYS)]
        if refused:
            values = ", ".join(f"{key}={differences[key][0]}, now {differences[key][1]}" for key in refused)
            fixed = [key for key in refused if key in _FIXED_KEYS]
            remedy = " ".join(f"--allow-change {key}" for key in refused)
            advice = f"leave it as it was, or say that you mean it: {remedy}"
            if fixed:
                advice = f"{fixed[0]} cannot change; leave it as it was, or {self._weights_alone}"
            raise ValueError(f"checkpoint {self.folder} was trained with {values}; {advice}")

    def _differences(self, recipe: Recipe, digests: Mapping[str, str]) -> dict[str, tuple[object, object]]:
        """What training goes by and is not the same: key -> (value then, value now)."""
        then, now = self.recipe.resolved(), recipe.resolved()
        differences: dict[str, tuple[object, object]] = {
            f"{section}.{key}": (then[section][key], value)
            for section in ("training", "data")
            for key, value in now[section].items()
            if then[section][key] != value
        }
        for key, stored in ((CORPUS, self.manifest.corpus), (TOKENIZER, self.manifest.tokenizer)):
            if stored and digests[key] and stored != digests[key]:
                differences[key] = (stored, digests[key])
        return differences

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

    @property
    def _weights_alone(self) -> str:
        return f"go on from its weights: `grok1 convert {shlex.quote(str(self.folder))} SAFETENSORS`"

    def _check_line(self) -> None:
        """Each of megatron's lines keeps the optimizer's state in a way of its own; weights are the same in all."""
        stored, now = self.manifest.megatron or FIRST_LINE, megatron_line()
        if stored != now:
            raise ValueError(
                f"checkpoint {self.folder} was written by megatron-core {printable(stored)}, whose optimizer state "
                f"megatron-core {now} does not read; resume with megatron-core {printable(stored)}, or "
                f"{self._weights_alone}"
            )

    def _check_layout(self, recipe: Recipe, is_allowed: bool) -> None:
        """Another layout must be allowed, and megatron's line and the experts must read the optimizer's state in it."""
        then, now = self.recipe.resolved()["parallel"], recipe.resolved()["parallel"]
        changed = [f"parallel.{key}={then[key]}, now {now[key]}" for key in now if then[key] != now[key]]
        line, experts = megatron_line(), recipe.kernels.experts
        hindrance = ""
        if not resumes_in_any_layout(line):
            hindrance = (
                f"megatron-core {line} stores the optimizer's state as each rank has it, which fits no other layout"
            )
        elif experts in _EXPERTS_APART:
            hindrance = f"the optimizer state of kernels.experts={experts} is read in the layout that wrote it alone"
        if not changed or (is_allowed and not hindrance):
            return
        remedy = f"say that you mean it: --allow-change {LAYOUT}"
        if hindrance:
            remedy = self._weights_alone
        why_not = f"; {hindrance}" if hindrance else ""
        raise ValueError(
            f"checkpoint {self.folder} was written with {', '.join(changed)}{why_not}; "
            f"use the layout it was written with, or {remedy}"
        )

    def _check_experts(self, recipe: Recipe) -> None:
        """Grouped experts are stored transposed, Transformer Engine's in another order; the other two kinds match."""
        stored, wanted = self.recipe.kernels.experts, recipe.kernels.experts
        if stored != wanted and {stored, wanted} & _EXPERTS_APART:
            raise ValueError(
                f"checkpoint {self.folder} was written with kernels.experts={stored}, the recipe says {wanted}, whose "
                f"optimizer state is laid out otherwise; resume with kernels.experts={stored}"
            )


def check_changeable(keys: Sequence[str]) -> None:
    """Refuse keys that --allow-change does not know.

    Raises:
        ValueError: names the key, and what to give instead.
    """
    known = [*(f"training.{key}" for key in Training.model_fields), *(f"data.{key}" for key in Data.model_fields)]
    known = [key for key in [*known, CORPUS, TOKENIZER, LAYOUT] if key not in (*_FREE_KEYS, *_FIXED_KEYS)]
    for key in keys:
        if key not in known:
            raise ValueError(f"--allow-change {quoted(key)} is not a value that may change; {_instead(key, known)}")


def _instead(key: str, known: Sequence[str]) -> str:
    """What to give in place of a key that --allow-change does not know."""
    if key in _FREE_KEYS:
        return "leave it out: it may differ without a word, as it changes no number"
    if key in _FIXED_KEYS:
        return "leave it as it was, or go on from the checkpoint's weights: `grok1 convert DIR SAFETENSORS`"
    if key.startswith(f"{LAYOUT}."):
        return f"a layout changes as a whole: give {LAYOUT}"
    near = difflib.get_close_matches(key, known, 1)
    choice = f"{near[0]}?" if near else "a key of training or data like training.seed,"
    return f"give {choice} (one key each time; {CORPUS}, {TOKENIZER} and {LAYOUT} are others)"


def holds_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a finished step."""
    return (folder / LATEST).exists()


def partial_folder(folder: Path, step: int, job: str = "") -> Path:
    """Where the files of a step go until all of them are written.

    `job` is a word that two jobs which save to one folder do not share: else what one of them writes would become a
    part of the other's checkpoint, whose checksums are taken from the disk.
    """
    final = step_folder(folder, step)
    return final.with_name(f"{final.name}.{job}{'.' * bool(job)}partial")


def start_step(folder: Path, step: int, job: str = "") -> Path:
    """Make the partial folder of a step, empty. One process does this before any of them writes.

    What jobs that were killed left of any step goes; one in which something was written within the hour may be that of
    a job that saves now.
    """
    partial = partial_folder(folder, step, job)
    for left in folder.glob("iter_*.*partial"):
        if left == partial or _written_at(left) < time.time() - _LEFT_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _written_at(folder: Path) -> float:
    """When something in it was last written, in seconds since the epoch; now, where it goes meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


def finish_step(
    folder: Path,
    step: int,
    recipe: Recipe,
    sums: Mapping[str, FileSum] | None = None,
    corpus: str = "",
    tokenizer: str = "",
    megatron: str = "",
    job: str = "",
) -> None:
    """Give a step's partial folder its recipe, its manifest and its name, and make it the newest.

    One process does this after all wrote. `sums` are those of files that were read already, `megatron` is the line
    that wrote the optimizer's state.
    """
    partial, final = partial_folder(folder, step, job), step_folder(folder, step)
    write_text(partial / _RECIPE_NAME, json.dumps(recipe.resolved(), indent=2))
    _write_sums(partial, step, recipe, sums or {}, corpus, tokenizer, megatron)
    replaced = final.with_name(f"{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        os.replace(final, replaced)
    os.replace(partial, final)
    write_text(folder / LATEST, str(step))
    shutil.rmtree(replaced, ignore_errors=True)


def abandon_step(folder: Path, step: int, job: str = "") -> None:
    """Leave nothing of a step that could not be written, also where other processes still write into it."""
    partial = partial_folder(folder, step, job)
    gone = partial.with_name(f".{partial.name}.gone")
    with contextlib.suppress(OSError):
        os.replace(partial, gone)  # at once: what the others open from now on fails
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


def seal(folder: Path) -> int:
    """Write the manifest of a folder's newest step, which has none; returns the step.

    Raises:
        ValueError: there is no checkpoint, or it has a manifest: then its files are what they were, or damaged.
    """
    step = _latest_step(folder)
    where = step_folder(folder, step)
    if (where / MANIFEST).exists():
        raise ValueError(f"{where} has checksums; if you changed its files on purpose, remove {MANIFEST} first")
    _write_sums(where, step, _recipe(where, None), {}, "")
    return step


def _write_sums(
    where: Path,
    step: int,
    recipe: Recipe,
    sums: Mapping[str, FileSum],
    corpus: str,
    tokenizer: str = "",
    megatron: str = "",
) -> None:
    rest = {path.name for path in where.iterdir()} - sums.keys()
    files = {**sums, **file_sums(where, rest)}
    manifest = Manifest(
        step=step, recipe_hash=recipe.hash(), corpus=corpus, tokenizer=tokenizer, megatron=megatron, files=files
    )
    write_manifest(where, manifest)


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


def _recipe(where: Path, manifest: Manifest | None) -> Recipe:
    path = where / _RECIPE_NAME
    content = _content(path)
    if manifest is not None and len(content) <= _MAX_RECIPE_BYTES:
        check_content(where, _RECIPE_NAME, content, manifest)
    return build_recipe(f"checkpoint recipe {path}", _fields(path, content))


def _content(path: Path) -> bytes:
    """Of a small file, and at most one byte more than it may have."""
    try:
        return read_at_most(path, _MAX_RECIPE_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path} cannot be read: No such file; {_COPY_AGAIN}") from None


def _fields(path: Path, content: bytes, what: str = "recipe") -> dict[str, object]:
    try:
        fields = json.loads(content.decode("utf-8")) if len(content) <= _MAX_RECIPE_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a {what} in JSON of at most {_MAX_RECIPE_BYTES} bytes; {_COPY_AGAIN}")
    return fields

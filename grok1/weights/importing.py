"""Imports published safetensors as a checkpoint that loads in any layout, in one process.

Streams: at most one layer's attention, one expert's matrix or the embedding is in memory.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from grok1.config.load import load_recipe, recipe_names
from grok1.config.recipe import Recipe
from grok1.config.refusals import listed, reason_of
from grok1.config.sections import Model
from grok1.files import write_text
from grok1.weights.blocks import Block, Shape, blocks, interleaved
from grok1.weights.folder import (
    MEGATRON_FORMAT,
    WEIGHTS_ONLY_STEP,
    finish_step,
    holds_checkpoint,
    start_step,
    step_folder,
)
from grok1.weights.names import EMBEDDING, HEAD, published_shapes
from grok1.weights.space import check_space, whole_or_told

Progress = Callable[[int, int], None]  # (weights done, of all)
Header = tuple[Path, str, Shape, str]  # of one weight: its file, its name there, shape and dtype
_MAX_INDEX_BYTES = 64 << 20
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_MAX_CHARACTERS = 8000  # of what a file made an error say
_SHOWN_PROBLEMS = 3
INDEX_NAME = "model.safetensors.index.json"


def import_weights(source: Path, target: Path, recipe: Recipe, progress: Progress = lambda done, total: None) -> None:
    """Write the published weights in `source` as a checkpoint of step 0 in `target`, dtypes unchanged.

    Raises:
        ValueError: weights are missing, unknown or of another shape.
    """
    files = check_published(source, recipe)
    if holds_checkpoint(target) or step_folder(target, WEIGHTS_ONLY_STEP).exists():
        raise ValueError(f"{target} holds a checkpoint already; give another folder")
    what, needed = "the checkpoint", sum(path.stat().st_size for path in {path for path, _ in files.places.values()})
    with whole_or_told(what, target, needed, lambda: None, (OSError, RuntimeError)):
        check_space(what, target, needed)
        _write_checkpoint(target, recipe, files, progress)


def _write_checkpoint(target: Path, recipe: Recipe, files: PublishedFiles, progress: Progress) -> None:
    partial = start_step(target, WEIGHTS_ONLY_STEP)
    try:
        _write_tensors(partial, _StreamingSave(recipe.model, files, progress))
        torch.save({"step": WEIGHTS_ONLY_STEP}, partial / "common.pt")
        write_text(partial / "metadata.json", json.dumps(MEGATRON_FORMAT))
        finish_step(target, WEIGHTS_ONLY_STEP, recipe)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_tensors(folder: Path, source: _StreamingSave) -> None:
    """As torch.distributed.checkpoint.save does on one process, except that errors and Ctrl-C are raised unchanged."""
    writer = FileSystemWriter(folder, single_file_per_rank=False)
    writer.reset(folder)
    writer.set_up_storage_writer(is_coordinator=True)
    plan = writer.prepare_local_plan(source.whole_plan())
    [plan], metadata = create_default_global_save_plan([plan])
    [plan] = writer.prepare_global_plan([plan])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.7's own use of it
        written = writer.write_data(plan, source)
        written.wait()
    writer.finish(metadata, [written.value()])


class _StreamingSave(DefaultSavePlanner):
    """Plans a checkpoint from shapes alone, and reads each weight only when it is to be written."""

    def __init__(self, model: Model, files: PublishedFiles, progress: Progress) -> None:
        super().__init__()
        self._model, self._files, self._progress = model, files, progress
        self._blocks = {(block.tensor, block.offsets): block for block in blocks(model)}
        self._done = 0

    def whole_plan(self) -> SavePlan:
        """One item for each block."""
        return SavePlan([self._item(block) for block in self._blocks.values()])

    def _item(self, block: Block) -> WriteItem:
        return WriteItem(
            index=MetadataIndex(block.tensor, torch.Size(block.offsets)),
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(
                chunk=ChunkStorageMetadata(torch.Size(block.offsets), torch.Size(block.sizes)),
                properties=TensorProperties(dtype=self._files.dtype(block.keys[0])),
                size=torch.Size(block.shape),
            ),
        )

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The block's data, read now."""
        offsets = write_item.index.offset
        assert offsets is not None
        block = self._blocks[(write_item.index.fqn, tuple(offsets))]
        weights = [self._files.read(key) for key in block.keys]
        whole = weights[0] if len(weights) == 1 else interleaved(weights, self._model)
        self._done += 1
        self._progress(self._done, len(self._blocks))
        return whole.reshape(block.sizes)


@dataclass(frozen=True)
class PublishedFiles:
    """Where each published weight lies: its file and its name in there."""

    places: Mapping[str, tuple[Path, str]]

    def read(self, key: str) -> Tensor:
        """The weight of this published name."""
        path, name = self.places[key]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    def dtype(self, key: str) -> torch.dtype:
        """Its dtype, from the file's header."""
        path, name = self.places[key]
        with safe_open(path, framework="pt") as file:
            return _FLOATS[file.get_slice(name).get_dtype()]


def check_published(folder: Path, recipe: Recipe) -> PublishedFiles:
    """The weights in `folder`, all of the recipe's model and no others, of the right shapes.

    Raises:
        ValueError: one line that lists three things that are wrong, and names a shipped recipe that fits.
    """
    found = [(path, *header) for path in _shards(folder) for header in _headers(path)]
    places: dict[str, tuple[Path, str]] = {}
    for path, name, _, _ in found:
        places.setdefault(_as_published(name), (path, name))
    files, problems = PublishedFiles(places), _problems(found, recipe.model)
    is_tied = HEAD in places and recipe.model.tie_embeddings
    if not problems and is_tied and not _are_equal(files, HEAD, EMBEDDING):
        problems.append(f"{HEAD}: differs from {EMBEDDING}, which the recipe ties; set model.tie_embeddings=false")
    elif problems:
        problems = [listed(problems, _SHOWN_PROBLEMS)[:_MAX_CHARACTERS], _remedy(found)]
    if problems:
        raise ValueError(f"{folder} does not hold the weights of {recipe.name}: {'; '.join(problems)}")
    return files


def _problems(found: Sequence[Header], model: Model) -> list[str]:
    """What is wrong with these weights as those of a model, but for their values."""
    expected = published_shapes(model)
    # some models write a tied head out; it is compared with the embedding
    allowed = {HEAD: expected[EMBEDDING], **expected}
    seen: dict[str, Path] = {}
    problems: list[str] = []
    for path, name, shape, dtype in found:
        key = _as_published(name)
        if key in seen:
            problems.append(f"{name}: is in {seen[key].name} and {path.name}")
        elif key not in allowed:
            problems.append(f"{name}: is not a weight of this model")
        elif shape != allowed[key]:
            problems.append(f"{name}: has shape {list(shape)}, the recipe says {list(allowed[key])}")
        elif dtype not in _FLOATS:
            problems.append(f"{name}: has dtype {dtype}, not one of {', '.join(_FLOATS)}")
        seen.setdefault(key, path)
    return problems + [f"{key}: is missing" for key in expected if key not in seen]


def _remedy(found: Sequence[Header]) -> str:
    """Which shipped recipe has a model of these weights."""
    for name in sorted(recipe_names(), key=lambda name: (len(name), name)):
        if not _problems(found, load_recipe(name).model):
            return f"they fit --recipe {name}"
    return "they fit no shipped recipe: copy the model again, whole, or give --recipe FILE.toml of their own model"


def _are_equal(files: PublishedFiles, key: str, other: str) -> bool:
    return files.dtype(key) == files.dtype(other) and torch.equal(files.read(key), files.read(other))


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those that its index names; without an index, all."""
    index = folder / INDEX_NAME
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise ValueError(f"{folder} holds no .safetensors files; give the folder of a published model")
        return found
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        unsafe = [name for name in names if not _SHARD_NAME.fullmatch(name)]
        if unsafe:
            raise ValueError(f"it names {unsafe[0]!r}, which is not the name of a file in this folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of safetensors: {reason_of(error, _MAX_CHARACTERS)}") from None
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing[:5])}, which its index names; copy the whole model")
    return [folder / name for name in sorted(names)]


def _headers(path: Path) -> Iterator[tuple[str, Shape, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                cut = file.get_slice(name)
                yield name, tuple(cut.get_shape()), cut.get_dtype()
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file: {reason_of(error, _MAX_CHARACTERS)}; copy it again"
        ) from None


def _as_published(name: str) -> str:
    """The published name; a norm's vector is called `.scale` in the original checkpoint."""
    return f"{name.removesuffix('.scale')}.weight" if name.endswith("norm.scale") else name

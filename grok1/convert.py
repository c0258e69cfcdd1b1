"""Weights from published safetensors into a checkpoint that any layout loads, and back; one process, streaming.

A checkpoint's tensors are those of megatron's torch_dist format: layers and experts stacked, query, key and value
interleaved by group, an expert's gate rows above its value rows. Nothing larger than one layer's attention, one
expert's matrix or the embedding is in memory at a time, beside the shard being written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_global_save_plan,
)
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from grok1.config import Model, Recipe, listed, printable
from grok1.files import write_text
from grok1.published import EMBEDDING, HEAD, published_shapes
from grok1.saved import LATEST, WEIGHTS_ONLY_STEP, latest_step, step_folder, stored_recipe

Progress = Callable[[int, int], None]  # (weights done, of all)
Shape = tuple[int, ...]

_MAX_INDEX_BYTES = 64 << 20
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_MAX_CHARACTERS = 8000  # of what a file made an error say
_SHOWN_PROBLEMS = 40
_INDEX = "model.safetensors.index.json"


# ---- what a checkpoint holds ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One piece of a stacked tensor in a checkpoint, and the published weights that it consists of."""

    tensor: str
    shape: Shape  # of the stacked tensor
    offsets: Shape
    sizes: Shape
    keys: tuple[str, ...]  # three for attention's input, whose rows are interleaved; else one


def blocks(model: Model) -> Iterator[Block]:
    """Every piece of a checkpoint of this model, layer by layer."""
    hidden, ffn, layers, experts = model.hidden_size, model.ffn_hidden_size, model.num_layers, model.num_experts
    query, key_value = model.query_size, model.key_value_size
    yield _unstacked("embedding.word_embeddings.weight", EMBEDDING, (model.vocab_size, hidden))
    in_layer: tuple[tuple[str, Shape, tuple[str, ...]], ...] = (
        ("input_layernorm.weight", (hidden,), ("pre_attn_norm.weight",)),
        (
            "self_attention.linear_qkv.weight",
            (query + 2 * key_value, hidden),
            ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"),
        ),
        ("self_attention.linear_proj.weight", (hidden, query), ("attn.o_proj.weight",)),
        ("post_attention_layernorm.weight", (hidden,), ("post_attn_norm.weight",)),
        ("pre_mlp_layernorm.weight", (hidden,), ("pre_moe_norm.weight",)),
        ("mlp.router.weight", (experts, hidden), ("moe_block.gate.weight",)),
        ("post_mlp_layernorm.weight", (hidden,), ("post_moe_norm.weight",)),
    )
    # name, shape of one expert's, first row, rows
    in_expert: tuple[tuple[str, Shape, int, int, str], ...] = (
        ("linear_fc1.weight", (2 * ffn, hidden), 0, ffn, "linear.weight"),
        ("linear_fc1.weight", (2 * ffn, hidden), ffn, ffn, "linear_v.weight"),
        ("linear_fc2.weight", (hidden, ffn), 0, hidden, "linear_1.weight"),
    )
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, shape, keys in in_layer:
            offsets = (layer, *(0 for _ in shape))
            full = tuple(f"{prefix}{key}" for key in keys)
            yield Block(f"decoder.layers.{name}", (layers, *shape), offsets, (1, *shape), full)
        for expert in range(experts):
            for name, shape, row, rows, key in in_expert:
                yield Block(
                    f"decoder.layers.mlp.experts.experts.{name}",
                    (layers, experts, *shape),
                    (layer, expert, row, 0),
                    (1, 1, rows, shape[1]),
                    (f"{prefix}moe_block.experts.{expert}.{key}",),
                )
    yield _unstacked("decoder.final_layernorm.weight", "model.norm.weight", (hidden,))
    if not model.tie_embeddings:
        yield _unstacked("output_layer.weight", HEAD, (model.vocab_size, hidden))


def _unstacked(name: str, key: str, shape: Shape) -> Block:
    return Block(name, shape, tuple(0 for _ in shape), shape, (key,))


def _interleaved(weights: list[Tensor], model: Model) -> Tensor:
    """Query, key and value [rows, hidden] as megatron stacks them: a group's query heads, its key, its value."""
    groups = model.num_query_groups
    return torch.cat([weight.view(groups, -1, weight.shape[-1]) for weight in weights], dim=1).flatten(0, 1)


def _separated(stacked: Tensor, model: Model) -> tuple[Tensor, ...]:
    """The inverse of `_interleaved`."""
    groups, size = model.num_query_groups, model.head_dim
    queries = model.num_attention_heads // groups * size
    parts = stacked.view(groups, queries + 2 * size, -1).split([queries, size, size], dim=1)
    return tuple(part.flatten(0, 1).contiguous() for part in parts)


# ---- in: safetensors to a checkpoint -------------------------------------------------------------------


def import_weights(source: Path, target: Path, recipe: Recipe, progress: Progress = lambda done, total: None) -> None:
    """Write the published weights in `source` as a checkpoint of no steps in `target`, in the dtypes they have.

    Raises:
        ValueError: weights are missing, unknown or of another shape; all are listed.
    """
    files = check_published(source, recipe)
    final = step_folder(target, WEIGHTS_ONLY_STEP)
    if (target / LATEST).exists() or final.exists():
        raise ValueError(f"{target} holds a checkpoint already; give another folder")
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_tensors(partial, _StreamingSave(recipe.model, files, progress))
        torch.save({"step": WEIGHTS_ONLY_STEP}, partial / "common.pt")
        write_text(partial / "metadata.json", json.dumps(_MEGATRON_FORMAT))
        write_text(partial / "recipe.json", json.dumps(recipe.resolved(), indent=2))
        os.replace(partial, final)
        write_text(target / LATEST, str(WEIGHTS_ONLY_STEP))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


_MEGATRON_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def _write_tensors(folder: Path, source: _StreamingSave) -> None:
    """What torch.distributed.checkpoint.save does on one process, but Ctrl-C and errors come out as they are."""
    writer = FileSystemWriter(folder, single_file_per_rank=False)
    writer.reset(folder)
    writer.set_up_storage_writer(is_coordinator=True)
    plan = writer.prepare_local_plan(source.whole_plan())
    [plan], metadata = create_default_global_save_plan([plan])
    [plan] = writer.prepare_global_plan([plan])
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
        """One item a block."""
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
        whole = weights[0] if len(weights) == 1 else _interleaved(weights, self._model)
        self._done += 1
        self._progress(self._done, len(self._blocks))
        return whole.reshape(block.sizes)


@dataclass(frozen=True)
class PublishedFiles:
    """Where each published weight lies: its file and its name in there."""

    places: Mapping[str, tuple[Path, str]]

    def read(self, key: str) -> Tensor:
        path, name = self.places[key]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    def dtype(self, key: str) -> torch.dtype:
        path, name = self.places[key]
        with safe_open(path, framework="pt") as file:
            return _FLOATS[file.get_slice(name).get_dtype()]


def check_published(folder: Path, recipe: Recipe) -> PublishedFiles:
    """The weights in `folder`, all of the recipe's model and no others, of the right shapes.

    Raises:
        ValueError: one line that lists what is wrong, up to 40 weights.
    """
    expected = published_shapes(recipe.model)
    allowed = {HEAD: expected[EMBEDDING], **expected}  # some write a tied head out: held against the embedding below
    places: dict[str, tuple[Path, str]] = {}
    problems: list[str] = []
    for path in _shards(folder):
        for name, shape, dtype in _headers(path):
            key = _as_published(name)
            if key in places:
                problems.append(f"{name}: is in {places[key][0].name} and {path.name}")
            elif key not in allowed:
                problems.append(f"{name}: is no weight of this model")
            elif shape != allowed[key]:
                problems.append(f"{name}: has shape {list(shape)}, the recipe says {list(allowed[key])}")
            elif dtype not in _FLOATS:
                problems.append(f"{name}: is {dtype}, none of {', '.join(_FLOATS)}")
            places.setdefault(key, (path, name))
    problems += [f"{key}: is missing" for key in expected if key not in places]
    files = PublishedFiles(places)
    if not problems and HEAD in places.keys() - expected.keys() and not _are_equal(files, HEAD, EMBEDDING):
        problems.append(f"{HEAD}: differs from {EMBEDDING}, which the recipe ties; set model.tie_embeddings=false")
    if problems:
        complaint = listed(problems, _SHOWN_PROBLEMS)[:_MAX_CHARACTERS]
        raise ValueError(f"{folder} does not hold the weights of {recipe.name}: {complaint}")
    return files


def _are_equal(files: PublishedFiles, key: str, other: str) -> bool:
    return files.dtype(key) == files.dtype(other) and torch.equal(files.read(key), files.read(other))


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those its index names, else all."""
    index = folder / _INDEX
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
            raise ValueError(f"it names {unsafe[0]!r}, which is no file of this folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of safetensors: {printable(str(error))[:_MAX_CHARACTERS]}") from None
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
            f"{path} is not a whole safetensors file: {printable(str(error))[:_MAX_CHARACTERS]}; copy it again"
        ) from None


def _as_published(name: str) -> str:
    """A norm's vector is `.scale` in the original checkpoint."""
    return f"{name.removesuffix('.scale')}.weight" if name.endswith("norm.scale") else name


# ---- out: a checkpoint to safetensors ------------------------------------------------------------------


def export_weights(
    source: Path, target: Path, max_shard_bytes: int = 5 << 30, progress: Progress = lambda done, total: None
) -> None:
    """Write the newest weights of a checkpoint of any layout as safetensors in published names, in their dtypes.

    The folder appears under its name when it is whole. It also holds an index and a config.json.

    Raises:
        ValueError: there is no checkpoint, or its recipe is not one, or the target exists.
    """
    step = latest_step(source)
    recipe = stored_recipe(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; give another one")
    reader = _StackedReader(step_folder(source, step), recipe.model)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        plan = _shard_plan(recipe.model, reader, max_shard_bytes)
        weight_map: dict[str, str] = {}
        total_bytes = 0
        for number, members in enumerate(plan, 1):
            name = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
            shard: dict[str, Tensor] = {}
            for block in members:
                shard |= reader.read(block)
                progress(len(weight_map) + len(shard), len(published_shapes(recipe.model)))
            save_file(shard, partial / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, name)
            total_bytes += sum(weight.nbytes for weight in shard.values())
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_text(partial / _INDEX, json.dumps(index, indent=2))
        write_text(partial / "config.json", json.dumps(_published_config(recipe), indent=2))
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _shard_plan(model: Model, reader: _StackedReader, max_shard_bytes: int) -> list[list[Block]]:
    """Blocks by shard, each as full as the limit allows and holding at least one."""
    plan: list[list[Block]] = [[]]
    filled = 0
    for block in blocks(model):
        size = reader.num_bytes(block)
        if plan[-1] and filled + size > max_shard_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(block)
        filled += size
    return plan


class _StackedReader(DefaultLoadPlanner):
    """Reads blocks of a checkpoint of any layout, one at a time."""

    def __init__(self, folder: Path, model: Model) -> None:
        super().__init__()
        self._model, self._shapes = model, published_shapes(model)
        self._reader = FileSystemReader(folder)
        self._metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        self._target = torch.empty(0)
        for block in blocks(model):
            stored = self._metadata.state_dict_metadata.get(block.tensor)
            if not isinstance(stored, TensorStorageMetadata) or tuple(stored.size) != block.shape:
                size = list(stored.size) if isinstance(stored, TensorStorageMetadata) else "nothing"
                raise ValueError(f"{folder}: {block.tensor} is {size}, its recipe says {list(block.shape)}")

    def _stored(self, block: Block) -> TensorStorageMetadata:
        stored = self._metadata.state_dict_metadata[block.tensor]
        assert isinstance(stored, TensorStorageMetadata)
        return stored

    def num_bytes(self, block: Block) -> int:
        """Size of the block as it is stored."""
        return int(torch.Size(block.sizes).numel() * self._stored(block).properties.dtype.itemsize)

    def read(self, block: Block) -> dict[str, Tensor]:
        """The published weights of the block."""
        stored = self._stored(block)
        wanted = ChunkStorageMetadata(torch.Size(block.offsets), torch.Size(block.sizes))
        self._target = torch.empty(block.sizes, dtype=stored.properties.dtype)
        items = create_read_items_for_chunk_list(block.tensor, stored, [wanted])
        if sum(torch.Size(item.lengths).numel() for item in items) != self._target.numel():
            raise ValueError(f"the checkpoint does not hold all of {block.tensor} at {list(block.offsets)}")
        self._reader.read_data(LoadPlan(items), self).wait()
        weight = (
            self._target.flatten(0, len(block.sizes) - 3) if len(block.sizes) > 2 else self._target
        )  # stack axes off
        if len(block.keys) > 1:
            return dict(zip(block.keys, _separated(weight.reshape(-1, block.sizes[-1]), self._model), strict=True))
        return {block.keys[0]: weight.reshape(published_shapes(self._model)[block.keys[0]])}

    def resolve_tensor(self, read_item: Any) -> Tensor:
        target = self._target
        for dimension, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dimension, start, length)
        return target

    def commit_tensor(self, read_item: Any, tensor: Tensor) -> None:
        """Nothing: the data was copied into place."""


def _published_config(recipe: Recipe) -> dict[str, Any]:
    """The model's sizes in the keys of the published config.json, with what it does not say added under its name."""
    model = recipe.model
    return {
        "architectures": ["Grok1ModelForCausalLM"],
        "model_type": "grok-1",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_dim,
        "attn_output_multiplier": model.attention_multiplier or model.head_dim**-0.5,
        "embedding_multiplier_scale": model.embedding_multiplier,
        "output_multiplier_scale": model.output_multiplier,
        "max_attn_value": model.attention_logit_cap,
        "max_position_embeddings": recipe.training.sequence_length,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": float(model.rope_base),
        "num_experts": model.num_experts,
        "num_experts_per_tok": model.experts_per_token,
        "tie_word_embeddings": model.tie_embeddings,
        "hidden_act": "gelu" if model.activation == "geglu" else "silu",
        "torch_dtype": {"bf16": "bfloat16", "fp32": "float32"}[recipe.training.dtype],
    }

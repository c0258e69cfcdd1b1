"""Exports a checkpoint of any layout as published safetensors, in one process.

Streams: only the safetensors file being written is in memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from grok1.config.recipe import Recipe
from grok1.config.sections import Model
from grok1.files import give_usual_mode, whole_folder, write_text
from grok1.megatron.plain_data import PlainReader, why
from grok1.weights.blocks import Block, blocks, separated
from grok1.weights.folder import StoredCheckpoint
from grok1.weights.importing import INDEX_NAME, Progress
from grok1.weights.names import published_shapes
from grok1.weights.space import check_space, whole_or_told


def export_weights(
    source: Path, target: Path, max_shard_bytes: int = 5 << 30, progress: Progress = lambda done, total: None
) -> None:
    """Write the newest weights of a checkpoint of any layout as safetensors: published names, dtypes unchanged.

    The folder appears under its name when it is whole. It also holds an index and a config.json.

    Raises:
        ValueError: there is no checkpoint, or its recipe is not one, or the target exists.
    """
    stored = StoredCheckpoint.open(source)
    recipe = stored.recipe
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; give another one")
    stored.verify()
    reader = _StackedReader(stored.step_folder, recipe.model)
    what, needed = "the export", sum(reader.num_bytes(block) for block in blocks(recipe.model))
    with whole_or_told(what, target, needed, lambda: None, (OSError, SafetensorError)):
        check_space(what, target, needed)
        with whole_folder(target) as partial:
            _write_shards(partial, reader, recipe, max_shard_bytes, progress)


def _write_shards(
    partial: Path, reader: _StackedReader, recipe: Recipe, max_shard_bytes: int, progress: Progress
) -> None:
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
        give_usual_mode(partial / name)
        weight_map |= dict.fromkeys(shard, name)
        total_bytes += sum(weight.nbytes for weight in shard.values())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_text(partial / INDEX_NAME, json.dumps(index, indent=2))
    write_text(partial / "config.json", json.dumps(_published_config(recipe), indent=2))


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
        self._reader = PlainReader(folder)
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
            raise ValueError(
                f"the checkpoint does not hold all of {block.tensor} at {list(block.offsets)}; copy it again, whole"
            )
        try:
            self._reader.read_data(LoadPlan(items), self).wait()
        except (OSError, RuntimeError, EOFError, KeyError, AttributeError, AssertionError, UnpicklingError) as error:
            raise ValueError(f"checkpoint {self._reader.path} does not load: {block.tensor}: {why(error)}") from error
        weight = (
            self._target.flatten(0, len(block.sizes) - 3) if len(block.sizes) > 2 else self._target
        )  # stack axes off
        if len(block.keys) > 1:
            return dict(zip(block.keys, separated(weight.reshape(-1, block.sizes[-1]), self._model), strict=True))
        return {block.keys[0]: weight.reshape(published_shapes(self._model)[block.keys[0]])}

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Where torch should copy this piece to."""
        target = self._target
        for dimension, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dimension, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing to do: the data is in place."""


def _published_config(recipe: Recipe) -> dict[str, object]:
    """The published config.json: the model's sizes and multipliers under the keys that other loaders read."""
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

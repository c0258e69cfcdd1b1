"""Which published weights make up each piece of a checkpoint's stacked tensors.

A checkpoint's tensors are those of megatron's torch_dist format: layers and experts stacked, query, key and value
interleaved by group, an expert's gate rows above its value rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grok1.config.sections import Model
from grok1.weights.names import EMBEDDING, HEAD

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One piece of a stacked tensor in a checkpoint, and the published weights that make it up."""

    tensor: str
    shape: Shape  # of the stacked tensor
    offsets: Shape
    sizes: Shape
    keys: tuple[str, ...]  # three for attention's input, whose rows are interleaved; otherwise one


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
    # (name, shape of one expert's tensor, first row, rows, published name)
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


def interleaved(weights: list[Tensor], model: Model) -> Tensor:
    """Query, key and value [rows, hidden] as megatron stacks them: a group's query heads, its key, its value."""
    groups = model.num_query_groups
    return torch.cat([weight.view(groups, -1, weight.shape[-1]) for weight in weights], dim=1).flatten(0, 1)


def separated(stacked: Tensor, model: Model) -> tuple[Tensor, ...]:
    """The inverse of `interleaved`."""
    groups, size = model.num_query_groups, model.head_dim
    queries = model.num_attention_heads // groups * size
    parts = stacked.view(groups, queries + 2 * size, -1).split([queries, size, size], dim=1)
    return tuple(part.flatten(0, 1).contiguous() for part in parts)

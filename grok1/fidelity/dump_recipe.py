"""The recipe of a reference dump: xAI's maths at the dump's sizes, in any layout. No torch."""

from __future__ import annotations

import math
import re
from typing import Any

from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError
from grok1.fidelity.dump import Dump, OracleConfig


def oracle_recipe(dump: Dump, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """xAI's maths at the dump's sizes, in the layout that the overrides name; one rank by default.

    Unless overridden, an expert is split as attention is, and the ranks are as few as hold the layout. The
    sequence is lengthened to what tensor and context parallelism divide, and rows are repeated to give every replica
    one.

    Raises:
        RecipeError: the layout cannot hold this dump; says which sizes do not fit.
    """
    config = dump.config
    fields: dict[str, Any] = {
        "name": f"oracle-{re.sub(r'[^A-Za-z0-9._-]', '-', dump.path.stem)[:50]}",
        "model": {
            "num_layers": config.num_layers,
            "hidden_size": config.emb_size,
            "ffn_hidden_size": config.ffn_size,
            "num_attention_heads": config.num_q_heads,
            "num_query_groups": config.num_kv_heads,
            "head_dim": config.key_size,
            "vocab_size": config.vocab_size,
            "num_experts": config.num_experts,
            "experts_per_token": config.num_selected_experts,
            "activation": "geglu",
            "attention_logit_cap": config.softcap,
            "attention_multiplier": config.attn_output_multiplier,
            "tie_embeddings": True,
            "router": "softmax_then_topk",
            "aux_loss_coefficient": 0.0,
            "embedding_multiplier": config.embedding_multiplier_scale,
            "output_multiplier": config.output_multiplier_scale,
            "norm_epsilon": config.norm_eps,
            "rope_base": config.rope_base,
        },
        "parallel": {},
        "training": {
            "dtype": "fp32",
            "learning_rate": 1e-3,
            "min_learning_rate": 1e-3,
            "warmup_steps": 0,
            "decay_steps": 1,
            "weight_decay": 0.0,
            "clip_grad": 0.0,
        },
    }
    recipe = build_recipe(f"oracle {dump.path.name}", fields, overrides, lambda given: _complete_layout(given, config))
    _check_fits(recipe, dump)
    return recipe


def _check_fits(recipe: Recipe, dump: Dump) -> None:
    """Refuse sizes other than the arrays have. The maths and the layout may be changed."""
    config, model, training = dump.config, recipe.model, recipe.training
    given = (
        ("model.num_layers", model.num_layers, config.num_layers),
        ("model.hidden_size", model.hidden_size, config.emb_size),
        ("model.ffn_hidden_size", model.ffn_hidden_size, config.ffn_size),
        ("model.num_attention_heads", model.num_attention_heads, config.num_q_heads),
        ("model.num_query_groups", model.num_query_groups, config.num_kv_heads),
        ("model.head_dim", model.head_dim, config.key_size),
        ("model.vocab_size", model.vocab_size, config.vocab_size),
        ("model.num_experts", model.num_experts, config.num_experts),
    )
    for name, ours, theirs in given:
        if ours != theirs:
            raise RecipeError(f"oracle {dump.path.name}: {name} {ours} is not the dump's {theirs}; leave it out")
    if training.sequence_length < config.seq or training.global_batch % config.batch:
        raise RecipeError(
            f"oracle {dump.path.name}: training.sequence_length {training.sequence_length} and global_batch "
            f"{training.global_batch} do not hold the dump's {config.batch} rows of {config.seq}; leave them out"
        )


def _complete_layout(fields: dict[str, Any], config: OracleConfig) -> None:
    """Fill in what follows from the layout: ranks, expert split, batch and sequence length. Given values stay."""
    parallel, training = fields["parallel"], fields["training"]
    sizes = [parallel.get(axis, 1) for axis in ("tensor", "context", "pipeline", "expert")]
    if not all(isinstance(size, int) and 0 < size <= 1 << 16 for size in sizes):
        parallel.setdefault("world_size", 1)
        training.setdefault("global_batch", config.batch)
        training.setdefault("sequence_length", config.seq)
        return  # the recipe's own check says what is wrong with them
    tensor, context, pipeline, expert = sizes
    expert_tensor = parallel.setdefault("expert_tensor", 1 if config.ffn_size % tensor else tensor)
    if not isinstance(expert_tensor, int) or expert_tensor < 1:
        expert_tensor = 1
    world_size = parallel.setdefault("world_size", pipeline * math.lcm(tensor * context, expert * expert_tensor))
    unit = tensor if context == 1 else math.lcm(2 * context, tensor * context)
    training.setdefault("sequence_length", -(-config.seq // unit) * unit)
    micro_batch = training.get("micro_batch", 1)
    if isinstance(world_size, int) and isinstance(micro_batch, int) and micro_batch > 0:
        replicas = max(1, world_size // (tensor * context * pipeline))
        training.setdefault("global_batch", math.lcm(config.batch, micro_batch * replicas))
    training.setdefault("global_batch", config.batch)

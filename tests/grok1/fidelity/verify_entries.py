"""Each choice of Grok-1's maths flipped alone, on one rank, as an entry for the launcher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.fidelity import verify
from grok1.fidelity.dump import Dump
from grok1.fidelity.dump_recipe import oracle_recipe
from grok1.fidelity.job import VerifyJob
from grok1.fidelity.result import VerifyResult
from grok1.model import attention, layers, model, moe


def _exact_gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def _multiplier_after_cap(
    query: Tensor, key: Tensor, value: Tensor, multiplier: float, cap: float, bias: Tensor | None, _first: object = None
) -> Tensor:
    scores = cap * torch.tanh(query @ key.transpose(-1, -2) / cap) * multiplier
    return _finished(scores.masked_fill(attention._future(query, key), -1e30), value, bias)


def _mask_before_cap(
    query: Tensor, key: Tensor, value: Tensor, multiplier: float, cap: float, bias: Tensor | None, _first: object = None
) -> Tensor:
    scores = (query @ key.transpose(-1, -2) * multiplier).masked_fill(attention._future(query, key), -1e30)
    return _finished(cap * torch.tanh(scores / cap), value, bias)


def _finished(scores: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        scores = torch.where(bias == 0.0, scores, bias)
    return scores.softmax(-1) @ value


def _in_one_matrix(query_SBHD: Tensor, key_TBGD: Tensor, value_TBGD: Tensor, multiplier: float, cap: float) -> Tensor:
    """Stands in for the blockwise attention, by the functions of grok1.model.attention that a flip may replace."""
    group = query_SBHD.shape[2] // key_TBGD.shape[2]
    query, key, value = (heads.permute(1, 2, 0, 3) for heads in (query_SBHD, key_TBGD, value_TBGD))
    key, value = (attention._for_query_heads(heads, group) for heads in (key, value))
    bias = torch.zeros(1, 1, 1, key.shape[2])  # hides nothing
    return attention._capped(query, key, value, multiplier, cap, bias).permute(2, 0, 1, 3)


def _attention_with(**flipped: Any) -> Any:
    return patch.multiple(attention, capped_attention=_in_one_matrix, **flipped)


def _interleaved_rope(recipe: Any) -> Any:
    return dataclasses.replace(_TRANSFORMER_CONFIG(recipe), rotary_interleaved=True)


_TRANSFORMER_CONFIG = model.transformer_config


def _heads_in_turn(heads_BGTD: Tensor, group: int) -> Tensor:
    """Query head h reads key/value head h modulo G."""
    return heads_BGTD.repeat(1, group, 1, 1)


def _no_post_norms(self: Any, hidden_states: Tensor, attention_mask: Any = None, **rest: Any) -> Any:
    attended, _unused = self.self_attention(
        self.input_layernorm(hidden_states), attention_mask=attention_mask, rotary_pos_emb=rest["rotary_pos_emb"]
    )
    hidden_states = hidden_states + attended
    return hidden_states + self.mlp(self.pre_mlp_layernorm(hidden_states))[0], None


def _pads_are_words(tokens: Tensor, _pad_token: int, length: int | None = None) -> Tensor:
    return _KEY_BIAS(tokens, -1, length)


_KEY_BIAS = attention.key_bias


def _pads_at_minus_infinity(tokens: Tensor, pad_token: int, length: int | None = None) -> Tensor:
    bias = _KEY_BIAS(tokens, pad_token, length)
    return torch.where(bias < 0, -torch.inf, bias)


Patch = Callable[[], AbstractContextManager[Any]]

# a flip is either a recipe's value or one function replaced
RECIPE_FLIPS = {
    "no cap": "model.attention_logit_cap=0.0",
    "cap of 50": "model.attention_logit_cap=50.0",
    "router softmax over the chosen two": "model.router=topk_then_softmax",
    "norm epsilon": "model.norm_epsilon=1e-6",
    "untied head": "model.tie_embeddings=false",
    "embedding multiplier rounded to bf16": "model.embedding_multiplier=78.5",
    "output multiplier rounded to bf16": "model.output_multiplier=0.578125",
    "attention multiplier": "model.attention_multiplier=0.35",
    "RoPE base": "model.rope_base=10001",
    "silu for gelu": "model.activation=swiglu",
    "an auxiliary loss": "model.aux_loss_coefficient=0.01",
}
PATCHES: dict[str, Patch] = {
    "exact gelu": lambda: patch.object(moe, "gelu_tanh", _exact_gelu),
    "attention multiplier after the cap": lambda: _attention_with(_capped=_multiplier_after_cap),
    "RoPE interleaved": lambda: patch.object(model, "transformer_config", _interleaved_rope),
    "query heads take turns": lambda: _attention_with(_for_query_heads=_heads_in_turn),
    "no norms after the blocks": lambda: patch.object(layers.GrokLayer, "forward", _no_post_norms),
}
PAD_PATCHES: dict[str, Patch] = {
    "pads seen": lambda: patch.object(verify, "key_bias", _pads_are_words),
    "pads at minus infinity": lambda: patch.object(verify, "key_bias", _pads_at_minus_infinity),
}
# a mask that passes the cap weighs e^-cap: nothing at xAI's 30, so a dump with a cap of 3 shows it
LOW_CAP_PATCHES: dict[str, Patch] = {
    "mask before the cap": lambda: _attention_with(_capped=_mask_before_cap),
}
UNCHANGED: dict[str, Patch] = {"unchanged": nullcontext}


def flip_each(job: VerifyJob, where: Rendezvous, _emit: object) -> dict[str, VerifyResult]:
    """The comparison under each flip that this dump can show, by its name."""
    dump, results = Dump(job.path), {}
    patches, overrides = PATCHES, RECIPE_FLIPS
    if dump.has_pads() or dump.config.softcap < 10.0:
        patches, overrides = PAD_PATCHES if dump.has_pads() else LOW_CAP_PATCHES, {}
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        for name, apply in {**UNCHANGED, **patches}.items():
            with apply():
                results[name] = verify.compare(job, ranks)
        for name, override in overrides.items():
            flipped = dataclasses.replace(job, recipe=oracle_recipe(dump, [override]))
            results[name] = verify.compare(flipped, ranks)
    return {name: result for name, result in results.items() if result is not None}

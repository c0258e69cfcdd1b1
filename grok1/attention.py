"""Attention: megatron's self-attention around a core that may cap its logits.

Legend: S sequence, B micro-batch, H local query heads, G local key/value heads, D head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from grok1 import device
from grok1.config import Model
from grok1.engine import (
    AttnMaskType,
    ColumnParallelLinear,
    DotProductAttention,
    IdentityOp,
    MegatronModule,
    ModuleSpec,
    RowParallelLinear,
    SelfAttention,
    SelfAttentionSubmodules,
    TransformerConfig,
)


def attention_spec(model: Model) -> ModuleSpec:
    """Self-attention for this model on this process's device."""
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=_core_attention(model),
            linear_proj=RowParallelLinear,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )


def _core_attention(model: Model) -> type | ModuleSpec:
    if device.kind() == "npu" and not model.attention_logit_cap:
        return DotProductAttention  # MindSpeed replaces its forward with the fused NPU kernel
    return ModuleSpec(module=CausalAttention, params={"logit_cap": model.attention_logit_cap})


class CausalAttention(MegatronModule):
    """softmax(cap(q k^T / sqrt(D)), causal) v, with cap(s) = c tanh(s / c) where c > 0.

    Without a cap this is torch's fused attention; with one, scores are computed in float32 as xAI does:
    the multiplier before the cap, the mask after it.
    """

    def __init__(self, config: TransformerConfig, logit_cap: float = 0.0, **_unused: Any) -> None:
        super().__init__(config=config)
        self.logit_cap = logit_cap

    def forward(
        self,
        query_SBHD: Tensor,
        key_SBGD: Tensor,
        value_SBGD: Tensor,
        attention_mask: Any = None,
        **_unused: Any,
    ) -> Tensor:
        """Context [S, B, H*D] of query [S, B, H, D] against key and value [S, B, G, D]."""
        group = query_SBHD.shape[2] // key_SBGD.shape[2]
        query = query_SBHD.permute(1, 2, 0, 3)
        # head h reads key/value head h // group
        key = key_SBGD.permute(1, 2, 0, 3).repeat_interleave(group, dim=1)
        value = value_SBGD.permute(1, 2, 0, 3).repeat_interleave(group, dim=1)
        if self.logit_cap:
            context = _capped(query, key, value, self.logit_cap)
        else:
            context = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return context.permute(2, 0, 1, 3).flatten(2)


def _capped(query: Tensor, key: Tensor, value: Tensor, cap: float) -> Tensor:
    scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
    scores = cap * torch.tanh(scores / cap)
    length = scores.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    # xAI masks with -1e30, not -inf: a row with nothing to see is then uniform, not NaN
    return scores.masked_fill(future, -1e30).softmax(-1).to(value.dtype) @ value

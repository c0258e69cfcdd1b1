"""Attention: megatron's self-attention around a core that may cap its logits.

Legend: S sequence of queries, T of keys, B micro-batch, H local query heads, G local key/value heads, D head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from grok1.config.sections import Kernels, Model
from grok1.device.kind import device_kind
from grok1.distributed.context_split import chunks_of_rank
from grok1.distributed.groups import context_group
from grok1.kernels import transformer_engine
from grok1.kernels.capped_attention import capped_attention
from grok1.kernels.context_parallel import gathered, heads_for_sequence, sequence_for_heads
from grok1.kernels.linear import linear_layers
from grok1.megatron.door import (
    AttnMaskType,
    DotProductAttention,
    IdentityOp,
    MegatronModule,
    ModuleSpec,
    SelfAttention,
    SelfAttentionSubmodules,
    TransformerConfig,
)

_HIDDEN = -1e30  # xAI's score of what a query may not see


def attention_spec(
    model: Model, kernels: Kernels, core_attention: type | None = None, is_split: bool = False
) -> ModuleSpec:
    """Self-attention for this model on this process's device, around a core of megatron's where one is given.

    Where sequences are split over a context group, the core is ours on every device.
    """
    column, row = linear_layers(kernels)
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=column,
            core_attention=core_attention or _core_attention(model, kernels, is_split),
            linear_proj=row,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )


def _core_attention(model: Model, kernels: Kernels, is_split: bool) -> type | ModuleSpec:
    if kernels.attention == "te":
        return transformer_engine.core_attention()
    is_plain = not (model.attention_logit_cap or model.attention_multiplier or is_split)
    if device_kind() == "npu" and is_plain:
        return DotProductAttention  # MindSpeed replaces its forward with the fused NPU kernel
    multiplier = model.attention_multiplier or 1.0 / math.sqrt(model.head_dim)
    return ModuleSpec(module=CausalAttention, params={"multiplier": multiplier, "logit_cap": model.attention_logit_cap})


class CausalAttention(MegatronModule):
    """softmax(cap(m q k^T), causal) v, with cap(s) = c tanh(s / c) where c > 0, and m = 1 / sqrt(D) unless given.

    Without a cap this is torch's fused attention. With one, scores are computed in float32 as in xAI's model: the
    multiplier before the cap, the mask after it. They are computed in blocks of queries, unless there is a bias.
    Queries are at the last of the keys' positions, so that a cache of earlier keys works. Where a context group shares
    the sequence, each of a rank's two chunks is: it meets the gathered keys up to its own end.
    """

    def __init__(self, config: TransformerConfig, multiplier: float, logit_cap: float = 0.0, **_unused: object) -> None:
        super().__init__(config=config)
        self.multiplier, self.logit_cap = multiplier, logit_cap
        self.exchange = config.cp_comm_type if config.context_parallel_size > 1 else None

    def forward(
        self,
        query_SBHD: Tensor,
        key_TBGD: Tensor,
        value_TBGD: Tensor,
        attention_mask: Tensor | None = None,
        **_unused: object,
    ) -> Tensor:
        """Context [S, B, H*D] of query [S, B, H, D] against key and value [T, B, G, D], T >= S.

        In a context group, all are of this rank's two chunks. `attention_mask` is a bias [B, 1, 1, T] over keys, of the
        whole sequence's. Where it is not 0, it replaces their scores: see `key_bias`.
        """
        if self.exchange == "a2a":
            whole = heads_for_sequence(query_SBHD, key_TBGD, value_TBGD, context_group())
            attended = self._attended(*whole, attention_mask)
            return sequence_for_heads(attended.unflatten(2, (-1, query_SBHD.shape[3])), context_group()).flatten(2)
        if self.exchange is not None:
            return self._attended_by_chunk(query_SBHD, key_TBGD, value_TBGD, attention_mask)
        return self._attended(query_SBHD, key_TBGD, value_TBGD, attention_mask)

    def _attended_by_chunk(
        self, query_SBHD: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, bias_B11T: Tensor | None
    ) -> Tensor:
        """[S, B, H*D] of this rank's two chunks, each against the keys before its end, or all where there is a bias."""
        group = context_group()
        key, value = gathered(key_SBGD, value_SBGD, group)
        attended = []
        for number, query in zip(chunks_of_rank(group.size(), group.rank()), query_SBHD.chunk(2), strict=True):
            first = number * query.shape[0]
            seen = len(key) if bias_B11T is not None else first + len(query)
            attended.append(self._attended(query, key[:seen], value[:seen], bias_B11T, first))
        return torch.cat(attended)

    def _attended(
        self,
        query_SBHD: Tensor,
        key_TBGD: Tensor,
        value_TBGD: Tensor,
        attention_mask: Tensor | None,
        first: int | None = None,
    ) -> Tensor:
        """[S, B, H*D]; with a bias, queries may be at other positions than the last: from `first` on."""
        if self.logit_cap and attention_mask is None:
            return capped_attention(query_SBHD, key_TBGD, value_TBGD, self.multiplier, self.logit_cap).flatten(2)
        group = query_SBHD.shape[2] // key_TBGD.shape[2]
        query = query_SBHD.permute(1, 2, 0, 3)
        key = _for_query_heads(key_TBGD.permute(1, 2, 0, 3), group)
        value = _for_query_heads(value_TBGD.permute(1, 2, 0, 3), group)
        if attention_mask is not None:
            context = _capped(query, key, value, self.multiplier, self.logit_cap, attention_mask, first)
        else:
            whole = query.shape[2] == key.shape[2]
            mask = None if whole or query.shape[2] == 1 else ~_future(query, key)
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=whole, scale=self.multiplier
            )
        return context.permute(2, 0, 1, 3).flatten(2)


def key_bias(tokens_BT: Tensor, pad_token: int, length: int | None = None) -> Tensor:
    """What replaces the scores of keys [B, 1, 1, T]: -1e30 those of pads, -inf those from `length` on; 0 keeps them.

    xAI hides a pad from every query, itself included. -1e30, not -inf: a query that sees nothing but pads then
    attends to all positions equally, future ones included, as in xAI's model; -inf would give NaN. Positions from
    `length` on are padding of ours, which nothing attends to.
    """
    bias = torch.zeros(tokens_BT.shape, dtype=torch.float32, device=tokens_BT.device)
    bias.masked_fill_(tokens_BT <= pad_token, _HIDDEN)
    if length is not None:
        bias[:, length:] = -math.inf
    return bias[:, None, None, :]


def _for_query_heads(heads_BGTD: Tensor, group: int) -> Tensor:
    """[B, H, T, D]: query head h reads key/value head h // group."""
    return heads_BGTD.repeat_interleave(group, dim=1)


def _future(query: Tensor, key: Tensor, first: int | None = None) -> Tensor:
    """True where a key [.., T, D] lies after a query [.., S, D], the queries being from `first` on, or the last S."""
    queries, keys = query.shape[-2], key.shape[-2]
    earlier = keys - queries if first is None else first
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu(1 + earlier)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    multiplier: float,
    cap: float,
    bias_B11T: Tensor,
    first: int | None = None,
) -> Tensor:
    scores = (query @ key.transpose(-1, -2)).float() * multiplier
    if cap:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(_future(query, key, first), _HIDDEN)
    scores = torch.where(bias_B11T == 0.0, scores, bias_B11T)
    return scores.softmax(-1).to(value.dtype) @ value

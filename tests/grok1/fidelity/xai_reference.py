"""xAI's Grok-1 in plain torch, float64: an independent reading of its maths, which writes dumps of any size.

Nothing here comes from grok1/. Names and orientation are the dump's own: y = x @ w.
Legend: B batch, T sequence, D hidden, H query heads, G key/value heads, K head size, E experts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Weights = dict[str, Tensor]


def config(**sizes: Any) -> dict[str, Any]:
    """A dump's config: small sizes, changed by `sizes`."""
    chosen = {
        "num_layers": 2,
        "emb_size": 32,
        "num_q_heads": 4,
        "num_kv_heads": 2,
        "key_size": 8,
        "num_experts": 8,
        "num_selected_experts": 2,
        "vocab_size": 128,
        "ffn_size": 48,
        "batch": 2,
        "seq": 16,
        "seed": 1,
        "pad": False,
        "embedding_multiplier_scale": 78.38367176906169,
        "output_multiplier_scale": 0.5773502691896257,
        "norm_eps": 1e-5,
        "rope_base": 10000,
        "softcap": 30.0,
        "pad_token": 0,
        **sizes,
    }
    return {"attn_output_multiplier": 1.0 / math.sqrt(chosen["key_size"]), **chosen}


def random_weights(c: dict[str, Any]) -> Weights:
    """Weights whose activations are of ordinary size, exact in bf16, float64, leaves."""
    generator = torch.Generator().manual_seed(c["seed"])
    hidden, size, ffn, experts = c["emb_size"], c["key_size"], c["ffn_size"], c["num_experts"]
    query, key_value = c["num_q_heads"] * size, c["num_kv_heads"] * size

    def draw(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std + mean
        return values.bfloat16().double().requires_grad_()

    weights = {"in_out_embed.embeddings": draw(c["vocab_size"], hidden, std=0.05)}
    for layer in range(c["num_layers"]):
        prefix = f"layers.{layer}."
        for norm in ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3"):
            weights[f"{prefix}{norm}.scale"] = draw(hidden, std=0.3, mean=1.0)
        weights[f"{prefix}attn.query.w"] = draw(hidden, query, std=4.0 / math.sqrt(hidden))
        weights[f"{prefix}attn.key.w"] = draw(hidden, key_value, std=4.0 / math.sqrt(hidden))
        weights[f"{prefix}attn.value.w"] = draw(hidden, key_value, std=1.0 / math.sqrt(hidden))
        weights[f"{prefix}attn.linear.w"] = draw(query, hidden, std=0.02)
        weights[f"{prefix}router.w"] = draw(hidden, experts, std=1.0 / math.sqrt(hidden))
        weights[f"{prefix}moe.linear.w"] = draw(experts, hidden, ffn, std=1.0 / math.sqrt(hidden))
        weights[f"{prefix}moe.linear_v.w"] = draw(experts, hidden, ffn, std=1.0 / math.sqrt(hidden))
        weights[f"{prefix}moe.linear_1.w"] = draw(experts, ffn, hidden, std=0.02)
    weights["final_norm.scale"] = draw(hidden, std=0.3, mean=1.0)
    return weights


def forward(c: dict[str, Any], weights: Weights, tokens_BT: Tensor) -> tuple[Tensor, float]:
    """(logits [B, T, V], the smallest gap between the last chosen and the first unchosen expert's probability)."""
    gaps = [math.inf]
    x = weights["in_out_embed.embeddings"][tokens_BT] * c["embedding_multiplier_scale"]
    for layer in range(c["num_layers"]):
        w = {name.removeprefix(f"layers.{layer}."): each for name, each in weights.items()}
        normed = _norm(x, w["rms_norm.scale"], c)
        x = x + _norm(_attention(normed, w, tokens_BT, c), w["rms_norm_1.scale"], c)
        normed = _norm(x, w["rms_norm_2.scale"], c)
        mixed, gap = _experts(normed, w, c)
        gaps.append(gap)
        x = x + _norm(mixed, w["rms_norm_3.scale"], c)
    x = _norm(x, weights["final_norm.scale"], c)
    return x @ weights["in_out_embed.embeddings"].T * c["output_multiplier_scale"], min(gaps)


def loss_of(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy over every position, pads included."""
    return -logits_BTV.log_softmax(-1).gather(-1, targets_BT[..., None]).mean()


def write_dump(path: Path, c: dict[str, Any], num_pads: tuple[int, ...] = ()) -> None:
    """A dump NAME.npz and NAME.grads.npz; row r starts with num_pads[r] pads. Raises where rounding could re-route."""
    generator = torch.Generator().manual_seed(c["seed"] + 1)
    shape = (c["batch"], c["seq"])
    tokens, targets = (torch.randint(1, c["vocab_size"], shape, generator=generator) for _ in range(2))
    for row, pads in enumerate(num_pads):
        tokens[row, :pads] = c["pad_token"]
    weights = random_weights(c)
    logits, gap = forward(c, weights, tokens)
    assert gap > 1e-5, f"experts' probabilities within {gap:.1e}: float32 may choose others; take another seed"
    loss = loss_of(logits, targets)
    loss.backward()
    arrays: dict[str, Any] = {f"param.{name}": each.detach().float().numpy() for name, each in weights.items()}
    # an expert that no token chose has no gradient
    gradients: dict[str, Any] = {
        f"grad.{name}": (torch.zeros_like(each) if each.grad is None else each.grad).float().numpy()
        for name, each in weights.items()
    }
    numbers: dict[str, Any] = {
        "config_json": np.array(json.dumps(c)),
        "tokens": tokens.int().numpy(),
        "targets": targets.int().numpy(),
        "logits": logits.detach().float().numpy(),
        "loss": loss.detach().float().numpy(),
    }
    np.savez(path, **numbers, **arrays)
    np.savez(path.with_name(f"{path.stem}.grads.npz"), **gradients)


def _norm(x: Tensor, scale: Tensor, c: dict[str, Any]) -> Tensor:
    return scale * x / torch.sqrt((x * x).mean(-1, keepdim=True) + c["norm_eps"])


def _rotate(x_BTHK: Tensor, c: dict[str, Any]) -> Tensor:
    half = x_BTHK.shape[-1] // 2
    frequency = c["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angle_TK = torch.arange(x_BTHK.shape[1], dtype=torch.float64)[:, None] * frequency
    first, second = x_BTHK[..., :half], x_BTHK[..., half:]
    cos, sin = angle_TK.cos()[:, None, :], angle_TK.sin()[:, None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _attention(x: Tensor, w: Weights, tokens_BT: Tensor, c: dict[str, Any]) -> Tensor:
    batch, length, size = *tokens_BT.shape, c["key_size"]
    q = _rotate((x @ w["attn.query.w"]).view(batch, length, c["num_q_heads"], size), c)
    k = _rotate((x @ w["attn.key.w"]).view(batch, length, c["num_kv_heads"], size), c)
    v = (x @ w["attn.value.w"]).view(batch, length, c["num_kv_heads"], size)
    heads = []
    for head in range(c["num_q_heads"]):
        shared = head // (c["num_q_heads"] // c["num_kv_heads"])
        scores = torch.einsum("btk,bsk->bts", q[:, :, head], k[:, :, shared]) * c["attn_output_multiplier"]
        if c["softcap"]:
            scores = c["softcap"] * torch.tanh(scores / c["softcap"])
        visible = torch.ones(length, length, dtype=torch.bool).tril() & (tokens_BT > c["pad_token"])[:, None, :]
        scores = torch.where(visible, scores, torch.tensor(-1e30, dtype=torch.float64))
        heads.append(scores.softmax(-1) @ v[:, :, shared])
    return torch.cat(heads, -1) @ w["attn.linear.w"]


def _experts(x: Tensor, w: Weights, c: dict[str, Any]) -> tuple[Tensor, float]:
    probabilities = (x @ w["router.w"]).softmax(-1)
    ranked = probabilities.sort(-1, descending=True)
    chosen = c["num_selected_experts"]
    gap = math.inf
    if chosen < c["num_experts"]:
        gap = float((ranked.values[..., chosen - 1] - ranked.values[..., chosen]).min().detach())
    out = torch.zeros_like(x)
    for expert in range(c["num_experts"]):
        gate = (ranked.values[..., :chosen] * (ranked.indices[..., :chosen] == expert)).sum(-1, keepdim=True)
        up, value = x @ w["moe.linear.w"][expert], x @ w["moe.linear_v.w"][expert]
        gelu = 0.5 * up * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (up + 0.044715 * up**3)))
        out = out + gate * ((gelu * value) @ w["moe.linear_1.w"][expert])
    return out, gap

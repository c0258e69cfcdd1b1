"""The published names of Grok-1's weights, their shapes, and which of ours each one is. No torch.

The names are those of the `hpcai-tech/grok-1` checkpoint, as vLLM and SGLang load it: matrices [out, in] as in
torch's Linear; `linear` is an expert's gate branch, `linear_v` its value branch, `linear_1` its output. That
checkpoint calls a norm's vector `.scale`, both loaders `.weight`; we write `.weight` and read either.
"""

from __future__ import annotations

import re

from grok1.config.sections import Model

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(.+)")
_OUTSIDE_LAYERS = {
    "embedding.word_embeddings.weight": EMBEDDING,
    "output_layer.weight": HEAD,
    "decoder.final_layernorm.weight": "model.norm.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "pre_attn_norm.weight",
    "post_attention_layernorm.weight": "post_attn_norm.weight",
    "pre_mlp_layernorm.weight": "pre_moe_norm.weight",
    "post_mlp_layernorm.weight": "post_moe_norm.weight",
    "self_attention.linear_qkv.weight.query": "attn.q_proj.weight",
    "self_attention.linear_qkv.weight.key": "attn.k_proj.weight",
    "self_attention.linear_qkv.weight.value": "attn.v_proj.weight",
    "self_attention.linear_proj.weight": "attn.o_proj.weight",
    "mlp.router.weight": "moe_block.gate.weight",
}
_IN_EXPERT = {
    "linear_fc1.weight.gate": "linear.weight",
    "linear_fc1.weight.value": "linear_v.weight",
    "linear_fc2.weight": "linear_1.weight",
}


def published_name(name: str) -> str:
    """The published name of one of our whole weights (`decoder.layers.0.mlp.router.weight` and the like)."""
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    match = _LAYER.fullmatch(name)
    assert match is not None, f"{name} has no published name"
    layer, rest = match.groups()
    expert = _EXPERT.fullmatch(rest)
    if expert is not None:
        return f"model.layers.{layer}.moe_block.experts.{expert.group(1)}.{_IN_EXPERT[expert.group(2)]}"
    return f"model.layers.{layer}.{_IN_LAYER[rest]}"


def published_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Every published weight of a model of these sizes, in the order of the layers."""
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (model.vocab_size, hidden)}
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}pre_attn_norm.weight"] = (hidden,)
        shapes[f"{prefix}attn.q_proj.weight"] = (model.query_size, hidden)
        shapes[f"{prefix}attn.k_proj.weight"] = (model.key_value_size, hidden)
        shapes[f"{prefix}attn.v_proj.weight"] = (model.key_value_size, hidden)
        shapes[f"{prefix}attn.o_proj.weight"] = (hidden, model.query_size)
        shapes[f"{prefix}post_attn_norm.weight"] = (hidden,)
        shapes[f"{prefix}pre_moe_norm.weight"] = (hidden,)
        shapes[f"{prefix}moe_block.gate.weight"] = (model.num_experts, hidden)
        for expert in range(model.num_experts):
            shapes[f"{prefix}moe_block.experts.{expert}.linear.weight"] = (ffn, hidden)
            shapes[f"{prefix}moe_block.experts.{expert}.linear_v.weight"] = (ffn, hidden)
            shapes[f"{prefix}moe_block.experts.{expert}.linear_1.weight"] = (hidden, ffn)
        shapes[f"{prefix}post_moe_norm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not model.tie_embeddings:
        shapes[HEAD] = (model.vocab_size, hidden)
    return shapes

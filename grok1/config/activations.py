"""An estimate of the bytes that backward keeps. No torch.

The counts of tensors were read off the ledger of grok1-40b, by changing its sizes one at a time: a test holds the
estimate to every stored ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grok1.config.stages import chunks_in_flight, stage_layers

if TYPE_CHECKING:  # which imports this
    from grok1.config.recipe import Recipe

LONGEST_BLOCK = 256  # queries whose capped attention scores are in memory together; fewer on a CPU


def activation_bytes(recipe: Recipe, width: int, stage: int) -> int:
    """What a stage keeps, and what its largest layer takes meanwhile; `width` bytes an element."""
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    layer, passing = _layer(recipe, width)
    layers = stage_layers(model.num_layers, parallel)[stage] // parallel.virtual_pipeline
    kept = layers * layer * chunks_in_flight(parallel, stage, recipe.num_micro_batches)
    if stage == parallel.pipeline - 1:
        kept += 3 * _tokens(recipe) * model.vocab_size // parallel.tensor  # logits
    length = training.sequence_length
    return width * (kept + passing) + score_bytes(recipe, length * training.micro_batch, length)


def score_bytes(recipe: Recipe, tokens: int, length: int) -> int:
    """Peak bytes of capped attention scores: one block of queries, three copies in fp32; 0 without a cap."""
    parallel = recipe.parallel
    if not recipe.model.attention_logit_cap:
        return 0
    heads = recipe.model.num_attention_heads // parallel.tensor
    heads //= parallel.context if parallel.context_exchange == "a2a" else 1
    return 3 * 4 * heads * tokens * min(length, LONGEST_BLOCK)


def _tokens(recipe: Recipe) -> int:
    """Tokens of a micro-batch on one rank, before tensor ranks split them."""
    return recipe.training.sequence_length * recipe.training.micro_batch // recipe.parallel.context


def _layer(recipe: Recipe, width: int) -> tuple[int, int]:
    """(elements that a layer keeps, elements that it takes while it runs)."""
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    hidden = _tokens(recipe) * model.hidden_size // parallel.tensor
    experts, passing = _experts(recipe)
    layer = 22 * hidden + _attention(recipe) + experts
    if training.recompute == "full":
        return 2 * hidden, passing + layer
    if training.recompute == "none":
        return layer, passing
    if "moe" in training.recompute_modules:
        layer, passing = layer - experts, passing + experts
    if "layernorm" in training.recompute_modules:
        layer -= (6 if width == 4 else 14) * hidden  # of two norms their output; of all four, what is in fp32
    if "core_attn" in training.recompute_modules and not model.attention_logit_cap:
        layer -= max(0, model.query_size - 3 * model.key_value_size) * _tokens(recipe) // parallel.tensor
    return layer, passing


def _attention(recipe: Recipe) -> int:
    """Elements that attention keeps beside its input and output."""
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    tokens, is_gathered = _tokens(recipe), parallel.context > 1 and parallel.context_exchange == "all_gather"
    # of gathered keys and values, those up to the ends of this rank's two chunks
    keys = tokens * parallel.context + tokens // 2 if is_gathered else tokens
    kept = (2 * model.query_size * tokens + 2 * model.key_value_size * keys) // parallel.tensor
    if is_gathered and not model.attention_logit_cap:
        # masks of the two chunks, which torch's attention keeps where keys go further back than queries
        kept += (2 * parallel.context + 1) * (training.sequence_length // (2 * parallel.context)) ** 2
    return kept


def _experts(recipe: Recipe) -> tuple[int, int]:
    """(elements that the experts keep, elements that they take while they run), where the load is even."""
    model, parallel = recipe.model, recipe.parallel
    pairs = _tokens(recipe) * model.experts_per_token * parallel.expert_tensor // parallel.tensor  # (token, expert)
    pairs_per_expert = pairs * parallel.expert // model.num_experts
    wide = model.ffn_hidden_size // parallel.expert_tensor
    is_fused = recipe.kernels.experts == "fused"
    kept = pairs * ((3 if recipe.kernels.dispatch == "megatron" else 2) * model.hidden_size // 2)
    kept += pairs * (2 if is_fused else 5) * wide
    passing = (7 if is_fused else 4) * pairs_per_expert * wide
    return kept, passing + (3 * pairs * model.hidden_size if is_fused else 0)

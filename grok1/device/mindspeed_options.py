"""The options that we give MindSpeed: a table that says what of a recipe decides each, and what it changes there.

`grok1.device.accelerator` hands them over. tests/conformance leaves each one out in turn, over MindSpeed's real code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grok1.config.recipe import Recipe

FlagValue = bool | int | str


@dataclass(frozen=True, kw_only=True)
class MindSpeedFlag:
    """One option of MindSpeed's (26.0.0_core_r0.12.1, commit 3c44c134), what decides it, and where MindSpeed has it.

    `of` gives a recipe's value; without it or a recipe, it is `default`. `declared_in` is a path under
    mindspeed/features_manager/, or None for an option of Megatron's own parser, which arrives untyped: a bool or a str.
    """

    name: str
    default: FlagValue
    decided_by: str
    effect: str
    declared_in: str | None = None
    of: Callable[[Recipe], FlagValue] | None = None

    @property
    def attribute(self) -> str:
        """The name MindSpeed gives it in its namespace."""
        return self.name.replace("-", "_")


def _uses_mc2(recipe: Recipe) -> bool:
    return recipe.kernels.linear == "mc2"


def _reuses_fp32(recipe: Recipe) -> bool:
    return recipe.training.reuse_fp32_parameters


MINDSPEED_FLAGS: tuple[MindSpeedFlag, ...] = (
    MindSpeedFlag(
        name="use-flash-attn",
        default=True,
        decided_by="model.attention_logit_cap == 0: the fused kernel has no cap",
        effect="DotProductAttention.forward calls torch_npu.npu_fusion_attention",
        of=lambda recipe: not recipe.model.attention_logit_cap,
    ),
    MindSpeedFlag(
        name="position-embedding-type",
        default="rope",
        decided_by="always rope",
        effect="none by itself; with fused RoPE on and this unset, TransformerConfig raises AttributeError",
    ),
    MindSpeedFlag(
        name="use-fused-rotary-pos-emb",
        default=True,
        decided_by="always",
        effect="RoPE through mindspeed.ops.npu_rotary_position_embedding, not torch operators",
        declared_in="fusions/fused_rope.py",
    ),
    MindSpeedFlag(
        name="use-fused-rmsnorm",
        default=True,
        decided_by="always",
        effect="none on our RMSNorm: it replaces megatron's norms only (PTNorm turns it on in any case)",
        declared_in="megatron_basic/megatron_basic.py",
    ),
    MindSpeedFlag(
        name="use-fused-swiglu",
        default=True,
        decided_by="model.activation == swiglu",
        effect="none: nothing reads it, SwiGLUFunction is replaced by npu_swiglu whether it is given or not",
        declared_in="megatron_basic/megatron_basic.py",
        of=lambda recipe: recipe.model.activation == "swiglu",
    ),
    MindSpeedFlag(
        name="moe-permutation-async-comm",
        default=True,
        decided_by="always, as in the Ascend recipe",
        effect="none by itself: only a condition that --moe-tp-extend-ep and the overlap options check",
        declared_in="moe/tp_extend_ep.py",
    ),
    MindSpeedFlag(
        name="optimizer-selection",
        default="fused_adamw",
        decided_by="always",
        effect="apex.optimizers.FusedAdam, which megatron imports, becomes MindSpeed's fused AdamW",
        declared_in="megatron_basic/requirements_basic.py",
    ),
    MindSpeedFlag(
        name="optimization-level",
        default=2,
        decided_by="always",
        effect="levels 0 and 1 leave flash attention and every optional feature out",
        declared_in="megatron_basic/requirements_basic.py",
    ),
    MindSpeedFlag(
        name="use-ascend-mc2",
        default=False,
        decided_by="kernels.linear == mc2",
        effect="megatron's two split linear layers join their product with the tensor ranks' exchange",
        declared_in="tensor_parallel/mc2.py",
        of=_uses_mc2,
    ),
    MindSpeedFlag(
        name="tensor-model-parallel-size",
        default=False,
        decided_by="parallel.tensor, where kernels.linear == mc2",
        effect="none by itself; MC2 reads it while it patches, and without it raises AttributeError",
        of=lambda recipe: str(recipe.parallel.tensor) if _uses_mc2(recipe) else False,
    ),
    MindSpeedFlag(
        name="sequence-parallel",
        default=False,
        decided_by="kernels.linear == mc2, which needs tensor above 1 and so sequence_parallel",
        effect="none by itself; MC2 reads it while it patches",
        of=_uses_mc2,
    ),
    MindSpeedFlag(
        name="reuse-fp32-param",
        default=False,
        decided_by="training.reuse_fp32_parameters",
        effect="bf16 weights and the rest of their bits share the memory of the optimizer's fp32 copies",
        declared_in="memory/reuse_fp32_param.py",
        of=_reuses_fp32,
    ),
    MindSpeedFlag(
        name="use-distributed-optimizer",
        default=False,
        decided_by="training.reuse_fp32_parameters; ours is always the distributed one",
        effect="none by itself; --reuse-fp32-param reads it from Megatron's arguments when buffers are made",
        of=_reuses_fp32,
    ),
    MindSpeedFlag(
        name="use-legacy-models",
        default=False,
        decided_by="training.reuse_fp32_parameters: given as an empty text, which is false",
        effect="none by itself; --reuse-fp32-param's check reads it, and without it TransformerConfig raises",
        of=lambda recipe: "" if _reuses_fp32(recipe) else False,
    ),
)


def mindspeed_flags(recipe: Recipe | None = None) -> dict[str, FlagValue]:
    """The flags of a recipe; of a process without one, those that most recipes have."""
    return {flag.name: flag.of(recipe) if flag.of and recipe else flag.default for flag in MINDSPEED_FLAGS}

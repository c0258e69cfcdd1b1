"""The Grok-1 layer: sandwich norms around attention and experts.

h += norm_1(attention(norm_0(h))); h += norm_3(experts(norm_2(h))). The residual stream itself is never normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from grok1.config.recipe import Recipe
from grok1.config.sections import Kernels
from grok1.device.accelerator import npu_rms_norm
from grok1.device.kind import check_npu_norm, device_kind
from grok1.megatron.door import (
    ModuleSpec,
    TransformerConfig,
    TransformerLayer,
    TransformerLayerSubmodules,
    tensor_parallel,
)
from grok1.megatron.instances import mark_sequence_parallel
from grok1.megatron.protocols import InferenceContext
from grok1.model.attention import attention_spec
from grok1.model.moe import moe_spec


class RMSNorm(torch.nn.Module):
    """scale * x / sqrt(mean(x^2) + eps), computed in float32 and cast back to x's dtype."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        mark_sequence_parallel(self.weight, config.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as x [..., hidden]."""
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class NpuRMSNorm(RMSNorm):
    """The same by torch_npu's kernel, without copies of x and of the weight in float32. Never run on an NPU here."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as x [..., hidden]."""
        return npu_rms_norm(x, self.weight, self.eps)


def norm_class(kernels: Kernels) -> type[RMSNorm]:
    """The norm that a recipe chose.

    Raises:
        DeviceError: this process has no device for it.
    """
    if kernels.norm == "npu":
        check_npu_norm(device_kind())
        return NpuRMSNorm
    return RMSNorm


class GrokLayer(TransformerLayer):
    """megatron's layer with a norm after, as well as before, each of its two blocks.

    Of what may be `recomputed` in the backward, "layernorm" (all four norms) and "moe" (router, dispatch and experts)
    are done here; megatron's own parts do the others.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: TransformerLayerSubmodules,
        recomputed: Sequence[str] = (),
        **kwargs: object,
    ) -> None:
        super().__init__(config, submodules, **kwargs)
        norm = type(self.input_layernorm)  # all four alike
        self.post_attention_layernorm = norm(config, config.hidden_size, config.layernorm_epsilon)
        self.post_mlp_layernorm = norm(config, config.hidden_size, config.layernorm_epsilon)
        self._recomputed = recomputed

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        inference_context: InferenceContext | None = None,
        **_unused: object,
    ) -> tuple[Tensor, None]:
        """[S/TP, B, hidden] in and out; the second item is megatron's cross-attention context."""
        normed, drop_normed = self._before(self.input_layernorm, hidden_states)
        attended, _ = self.self_attention(
            normed,
            attention_mask=attention_mask,
            inference_context=inference_context,
            rotary_pos_emb=rotary_pos_emb,
        )
        drop_normed(attended)
        hidden_states = hidden_states + self._run(self.post_attention_layernorm, attended, "layernorm")
        normed, drop_normed = self._before(self.pre_mlp_layernorm, hidden_states)
        expert_output = self._run(self._experts, normed, "moe")
        drop_normed(expert_output)
        return hidden_states + self._run(self.post_mlp_layernorm, expert_output, "layernorm"), None

    def _experts(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.mlp(hidden_states)[0]
        return output

    def _run(self, part: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
        """part(x), of which the backward finds x alone where the part is recomputed."""
        if self.training and name in self._recomputed:
            again: Tensor = tensor_parallel.checkpoint(part, False, x)
            return again
        return part(x)

    def _before(self, norm: torch.nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """(norm(x), what to call with the block's output: it frees norm(x) until that output's gradient is there)."""
        if self.training and "layernorm" in self._recomputed:
            again = tensor_parallel.CheckpointWithoutOutput()
            return again.checkpoint(norm, x), again.discard_output_and_register_recompute
        return norm(x), lambda _output: None


def layer_spec(recipe: Recipe, core_attention: type | None = None) -> ModuleSpec:
    """One Grok-1 layer as megatron's transformer block wants it; see `attention_spec`."""
    model, kernels, training = recipe.model, recipe.kernels, recipe.training
    norm = norm_class(kernels)
    return ModuleSpec(
        module=GrokLayer,
        params={"recomputed": training.recompute_modules if training.recompute == "selective" else ()},
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=attention_spec(model, kernels, core_attention, recipe.parallel.context > 1),
            pre_mlp_layernorm=norm,
            mlp=moe_spec(model, kernels, training),
        ),
    )

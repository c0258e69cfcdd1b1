"""All local experts as one autograd function: megatron's SequentialMLP computed with less memory traffic.

Parameters, their names and their shards are SequentialMLP's; only the computation differs. A weight's gradient is added
to its `main_grad` by the product itself, where megatron's layer makes a gradient, then adds it. Backward keeps the
first product and the output, and computes the activation again. The probabilities scale rows of H, not of F. The
products are grok1.kernels.gemm's. With few tokens an expert, weights and their gradients are what a CPU waits for.

torch.nn.functional.grouped_mm wants the weights of all experts stacked, and on a CPU it is the same loop of products:
even on weights that lie stacked it is quicker than this only at the smallest size (docs/recipes.md has figures).

Legend: P (token, expert) pairs, sorted by expert; p those of one expert; H hidden; F this rank's part of an expert's
width; fc1 [2F, H] has the gate's rows above the value's, fc2 is [H, F].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from grok1.kernels.context import Context
from grok1.kernels.gemm import WeightGradients, matmul, room_for_left
from grok1.megatron.door import MLPSubmodules, SequentialMLP, TransformerConfig

_ATEN: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """What is applied to the gate; `backward(upstream, gate, grad_input=out)` is its gradient."""

    of: Callable[..., Tensor]
    backward: Callable[..., Tensor]

    def forward(self, gate: Tensor, out: Tensor | None = None) -> Tensor:
        """Of each element; written to `out` where it is given."""
        return self.of(gate) if out is None else self.of(gate, out=out)


ACTIVATIONS = {
    "swiglu": Activation(_ATEN.silu, _ATEN.silu_backward),
    "geglu": Activation(*(functools.partial(each, approximate="tanh") for each in (_ATEN.gelu, _ATEN.gelu_backward))),
}


class FusedExperts(SequentialMLP):
    """megatron's per-expert MLPs, without bias, whose forward and backward each are one function."""

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        submodules: MLPSubmodules,
        activation: str,
        **groups: object,  # as megatron's lines hand them on; 0.12 has none
    ) -> None:
        super().__init__(num_local_experts, config, submodules, **groups)
        assert config.gated_linear_unit
        assert not config.add_bias_linear
        assert not config.moe_apply_probs_on_input
        self._activation = ACTIVATIONS[activation]

    def forward(self, tokens_PH: Tensor, tokens_per_expert: Tensor, probs_P: Tensor) -> tuple[Tensor, None]:
        """[P, H] in and out, each row's output times its probability; megatron's second item is a bias."""
        experts = self.local_experts
        weights = [each.linear_fc1.weight for each in experts] + [each.linear_fc2.weight for each in experts]
        return _Experts.apply(tokens_PH, probs_P, tokens_per_expert.tolist(), self._activation, *weights), None


class _Kept(Context, Protocol):
    weights: tuple[Tensor, ...]
    counts: list[int]
    activation: Activation


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Kept, tokens_PH: Tensor, probs_P: Tensor, counts: list[int], activation: Activation, *weights: Tensor
    ) -> Tensor:
        fc1, fc2 = _halves(weights)
        unscaled_PH = torch.empty_like(tokens_PH)
        all_fused = []
        for expert, rows in _rows(counts):
            fused_p2F = matmul(tokens_PH[rows], fc1[expert].t())
            gate_pF, value_pF = fused_p2F.chunk(2, dim=-1)
            room_pF = room_for_left(len(fused_p2F), fc2[expert].t())
            unscaled_PH[rows] = matmul(activation.forward(gate_pF, out=room_pF).mul_(value_pF), fc2[expert].t())
            all_fused.append(fused_p2F)
        wants_d_probs = ctx.needs_input_grad[1]
        ctx.save_for_backward(tokens_PH, probs_P, unscaled_PH if wants_d_probs else None, *all_fused)
        # not saved: where saved tensors have hooks, what comes back is another tensor, without its `main_grad`
        ctx.weights = weights
        ctx.counts, ctx.activation = counts, activation
        return (unscaled_PH * probs_P[:, None]).to(tokens_PH.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Kept, upstream_PH: Tensor) -> tuple[Tensor | None, ...]:
        tokens_PH, probs_P, unscaled_PH, *all_fused = ctx.saved_tensors
        fc1, fc2 = _halves(ctx.weights)
        gradients = WeightGradients(ctx.weights, ctx.needs_input_grad[4:])
        d_probs_P = None if unscaled_PH is None else (upstream_PH.to(probs_P.dtype) * unscaled_PH).sum(dim=-1)
        d_unscaled_PH = (upstream_PH * probs_P[:, None]).to(upstream_PH.dtype)
        d_tokens_PH = torch.empty_like(tokens_PH)
        for (expert, rows), fused_p2F in zip(_rows(ctx.counts), all_fused, strict=True):
            gate_pF, value_pF = fused_p2F.chunk(2, dim=-1)
            activated_pF = ctx.activation.forward(gate_pF)
            gradients.add(len(fc1) + expert, d_unscaled_PH[rows], activated_pF * value_pF)
            d_product_pF = matmul(d_unscaled_PH[rows], fc2[expert])
            room_p2F = room_for_left(len(fused_p2F), fc1[expert])
            d_fused_p2F = torch.empty_like(fused_p2F) if room_p2F is None else room_p2F
            d_gate_pF, d_value_pF = d_fused_p2F.chunk(2, dim=-1)
            torch.mul(d_product_pF, activated_pF, out=d_value_pF)
            ctx.activation.backward(d_product_pF.mul_(value_pF), gate_pF, grad_input=d_gate_pF)
            gradients.add(expert, d_fused_p2F, tokens_PH[rows])
            d_tokens_PH[rows] = matmul(d_fused_p2F, fc1[expert])
        return d_tokens_PH, d_probs_P, None, None, *gradients.returned


def _halves(weights: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """(fc1 of each expert, fc2 of each expert)."""
    return weights[: len(weights) // 2], weights[len(weights) // 2 :]


def _rows(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) of the experts that got any."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count

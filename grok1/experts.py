"""Experts: megatron's router and dispatcher around its per-expert MLPs, and a count of what each expert got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from grok1.config import Kernels, Model
from grok1.dispatch import MergedDispatcher
from grok1.engine import (
    ColumnParallelLinear,
    GroupedMLP,
    MLPSubmodules,
    ModuleSpec,
    MoELayer,
    MoESubmodules,
    RowParallelLinear,
    SequentialMLP,
    grouped_gemm_util,
)
from grok1.fused_experts import FusedExperts


def moe_spec(model: Model, kernels: Kernels) -> ModuleSpec:
    """The mixture-of-experts block: router and dispatcher come with megatron's MoELayer."""
    expert = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(
        module=MergedMoELayer if kernels.dispatch == "merged" else MoELayer,
        submodules=MoESubmodules(experts=_experts_spec(model, kernels, expert)),
    )


def _experts_spec(model: Model, kernels: Kernels, expert: MLPSubmodules) -> ModuleSpec:
    if kernels.experts == "fused":
        return ModuleSpec(module=FusedExperts, submodules=expert, params={"activation": model.activation})
    if kernels.experts == "grouped":
        _check_grouped_gemm()
        return ModuleSpec(module=GroupedMLP)
    return ModuleSpec(module=SequentialMLP, submodules=expert)


def _check_grouped_gemm() -> None:
    """megatron asserts this with a traceback; asked here too for what starts without a launcher."""
    if not grouped_gemm_util.grouped_gemm_is_available():  # looked up late: MindSpeed replaces it
        raise ValueError(
            "kernels.experts grouped: megatron finds no grouped GEMM in this process; install grouped_gemm on cuda "
            "(docs/gpus.md), or set kernels.experts=sequential"
        )


class MergedMoELayer(MoELayer):
    """megatron's layer, which makes its dispatcher itself, with ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token_dispatcher = MergedDispatcher(self.num_local_experts, self.local_expert_indices, self.config)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, which is what jax.nn.gelu means by default."""
    return F.gelu(x, approximate="tanh")


def activation(model: Model) -> Callable[[Tensor], Tensor]:
    """What is applied to the gate branch of an expert."""
    return F.silu if model.activation == "swiglu" else gelu_tanh


class ExpertLoad:
    """Counts the tokens that this rank's routers send to each expert, by layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._maps_by_layer: dict[int, list[Tensor]] = {}
        self._counts_by_layer: dict[int, Tensor] = {}
        for module in model.modules():
            if isinstance(module, MoELayer):
                module.router.register_forward_hook(self._keep)

    def _keep(self, router: Any, _inputs: object, output: tuple[Tensor, Tensor]) -> None:
        if torch.is_grad_enabled():  # recomputation runs the router twice, first without gradients
            layer = int(router.layer_number) - 1  # megatron counts layers from 1
            self._maps_by_layer.setdefault(layer, []).append(output[1])

    def settle(self) -> None:
        """Count what was kept since the last call: once a step, as a small operation a router costs more."""
        for layer, maps_TE in self._maps_by_layer.items():
            counts_E = torch.cat(maps_TE).sum(dim=0)
            seen = self._counts_by_layer.get(layer)
            self._counts_by_layer[layer] = counts_E if seen is None else seen.add_(counts_E)
        self._maps_by_layer = {}

    def drain(self) -> dict[int, list[int]]:
        """Tokens per expert by layer index since the last drain."""
        self.settle()
        counts = {layer: counts_E.tolist() for layer, counts_E in self._counts_by_layer.items()}
        self._counts_by_layer = {}
        return counts

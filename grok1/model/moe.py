"""Experts: megatron's router and dispatcher around its MLPs or ours, one for each expert."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from grok1.config.sections import Kernels, Model, Training
from grok1.kernels import transformer_engine
from grok1.kernels.dispatch import MergedDispatcher
from grok1.kernels.experts import FusedExperts
from grok1.kernels.linear import plain_layers
from grok1.megatron.door import (
    GroupedMLP,
    MLPSubmodules,
    ModuleSpec,
    MoELayer,
    MoESubmodules,
    SequentialMLP,
    grouped_gemm_util,
)
from grok1.megatron.installed import check_has_grouped_experts
from grok1.megatron.instances import change_class
from grok1.model.routing import RandomRouter


def moe_spec(model: Model, kernels: Kernels, training: Training) -> ModuleSpec:
    """The mixture-of-experts block: router and dispatcher come with megatron's MoELayer, unless ours are chosen."""
    column, row = plain_layers()
    expert = MLPSubmodules(linear_fc1=column, linear_fc2=row)
    return ModuleSpec(
        module=GrokMoELayer,
        params={
            "is_merged": kernels.dispatch == "merged",
            "random_seed": training.seed if training.routing == "random" else None,
        },
        submodules=MoESubmodules(experts=_experts_spec(model, kernels, expert)),
    )


def _experts_spec(model: Model, kernels: Kernels, expert: MLPSubmodules) -> ModuleSpec:
    if kernels.experts == "fused":
        return ModuleSpec(module=FusedExperts, submodules=expert, params={"activation": model.activation})
    if kernels.experts == "grouped":
        _check_grouped_gemm()
        return ModuleSpec(module=GroupedMLP)
    if kernels.experts == "te_grouped":
        return transformer_engine.grouped_experts()
    return ModuleSpec(module=SequentialMLP, submodules=expert)


def _check_grouped_gemm() -> None:
    """megatron asserts this with a traceback. Checked here as well, for runs that no launcher started."""
    check_has_grouped_experts()
    if not grouped_gemm_util.grouped_gemm_is_available():  # looked up late: MindSpeed replaces it
        raise ValueError(
            "kernels.experts grouped: megatron finds no grouped GEMM in this process; install grouped_gemm on cuda "
            "(docs/gpus.md), or set kernels.experts=sequential"
        )


class GrokMoELayer(MoELayer):
    """megatron's layer, with our dispatcher in place of its own where `is_merged`, and drawn routes with a seed."""

    def __init__(
        self, *args: object, is_merged: bool = False, random_seed: int | None = None, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        if is_merged:
            self.token_dispatcher = MergedDispatcher(self.num_local_experts, self.local_expert_indices, self.config)
        if random_seed is not None:
            change_class(self.router, RandomRouter, seed=random_seed)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, which is what jax.nn.gelu means by default."""
    return F.gelu(x, approximate="tanh")


def activation(model: Model) -> Callable[[Tensor], Tensor]:
    """What is applied to the gate branch of an expert."""
    return F.silu if model.activation == "swiglu" else gelu_tanh

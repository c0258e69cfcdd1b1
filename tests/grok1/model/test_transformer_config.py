"""The recipe in megatron's words: the choices in which the published models differ, and what stays off."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from grok1.config.load import ONE_RANK, load_recipe
from grok1.model.model import transformer_config
from grok1.model.moe import activation


def config(*changes: str) -> Any:
    return transformer_config(load_recipe("grok1-nano", [*ONE_RANK, *changes]))


@pytest.mark.parametrize(("router", "is_before"), [("topk_then_softmax", False), ("softmax_then_topk", True)])
def test_the_router_weighs_before_or_after_it_chooses(router: str, is_before: bool) -> None:
    assert config(f"model.router={router}").moe_router_pre_softmax is is_before


@pytest.mark.parametrize(("coefficient", "kind"), [(0.0, "none"), (0.003, "aux_loss"), (1.0, "aux_loss")])
def test_the_auxiliary_loss_has_the_recipes_coefficient_and_is_off_without(coefficient: float, kind: str) -> None:
    found = config(f"model.aux_loss_coefficient={coefficient}")
    assert (found.moe_aux_loss_coeff, found.moe_router_load_balancing_type) == (coefficient, kind)


def test_the_router_computes_in_float32_unless_the_recipe_says_otherwise() -> None:
    assert config().moe_router_dtype == "fp32"
    assert config("training.dtype=bf16", "training.router_dtype=model").moe_router_dtype is None


def test_each_token_goes_to_as_many_experts_as_the_recipe_says() -> None:
    found = config("model.num_experts=8", "model.experts_per_token=3")
    assert (found.num_moe_experts, found.moe_router_topk) == (8, 3)
    assert found.moe_expert_capacity_factor is None, "no token is dropped"


@pytest.mark.parametrize("x", [-3.0, -0.7, 0.0, 0.3, 2.0])
def test_the_gate_is_gelu_by_its_tanh_formula_or_silu(x: float) -> None:
    """Hendrycks and Gimpel 2016; torch's default uses the error function, which differs by up to 5e-4."""
    tanh = x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    by_recipe = {
        name: activation(load_recipe("grok1-nano", [f"model.activation={name}"]).model)(
            torch.tensor(x, dtype=torch.float64)
        ).item()
        for name in ("geglu", "swiglu")
    }
    assert by_recipe["geglu"] == pytest.approx(tanh, abs=1e-12)
    assert by_recipe["swiglu"] == pytest.approx(x / (1 + math.exp(-x)), abs=1e-12)


@pytest.mark.parametrize(("dtype", "parameters"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_parameters_and_what_goes_between_stages_have_the_recipes_type(dtype: str, parameters: torch.dtype) -> None:
    found = config(f"training.dtype={dtype}")
    assert found.params_dtype == found.pipeline_dtype == parameters
    assert found.bf16 is (dtype == "bf16")


def test_all_layers_are_recomputed_one_by_one_or_none() -> None:
    assert config().recompute_granularity is None
    found = config("training.recompute=full")
    assert (found.recompute_granularity, found.recompute_method, found.recompute_num_layers) == ("full", "uniform", 1)

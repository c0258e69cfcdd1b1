"""What the recipe's numbers do: the learning rate and the weight decay of every step, and AdamW's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grok1.config.load import load_recipe
from grok1.config.sections import Training
from grok1.training import optimizer
from grok1.weights.chunks import Chunks

SETTINGS = (
    "learning_rate=0.01",
    "min_learning_rate=0.002",
    "warmup_steps=10",
    "decay_steps=110",
    "weight_decay=0.3",
    "adam_beta1=0.8",
    "adam_beta2=0.9",
    "adam_epsilon=1e-6",
    "clip_grad=0.7",
)


def training(*changes: str) -> Training:
    return load_recipe("grok1-nano", [f"training.{each}" for each in (*SETTINGS, *changes)]).training


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(what megatron's optimizer was asked for, the optimizer's group, the scheduler), by a recipe's training."""

    def build(chosen: Training) -> tuple[Any, dict[str, Any], Any]:
        group: dict[str, Any] = {"lr_mult": 1.0, "wd_mult": 1.0, "params": []}
        asked: list[Any] = []

        def make(config: Any, models: list[Any], **_: Any) -> Any:
            asked.append(config)
            return SimpleNamespace(param_groups=[group])

        monkeypatch.setattr(optimizer, "get_megatron_optimizer", make)
        _, scheduler = optimizer.build_optimizer(Chunks([]), chosen, stock=True)
        return asked[0], group, scheduler

    return build


def test_the_rate_rises_in_a_line_falls_in_a_cosine_and_stays_at_its_least(built: Any) -> None:
    _, group, scheduler = built(training())
    rates = [group["lr"]]
    for _ in range(150):
        scheduler.step(increment=1)
        rates.append(group["lr"])
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.005)
    assert rates[10] == max(rates) == pytest.approx(0.01)
    assert rates[35] == pytest.approx(0.002 + 0.008 * (1 + 2**-0.5) / 2)
    assert rates[60] == pytest.approx(0.006)
    assert rates[110:] == pytest.approx([0.002] * 41)


def test_the_weight_decay_is_the_same_in_every_step(built: Any) -> None:
    _, group, scheduler = built(training())
    decays = {group["weight_decay"]}
    for _ in range(150):
        scheduler.step(increment=1)
        decays.add(group["weight_decay"])
    assert decays == {0.3}


def test_adamw_gets_the_recipes_numbers(built: Any) -> None:
    asked, _, _ = built(training())
    assert asked.optimizer == "adam"
    assert (asked.lr, asked.min_lr, asked.weight_decay) == (0.01, 0.002, 0.3)
    assert (asked.adam_beta1, asked.adam_beta2, asked.adam_eps, asked.clip_grad) == (0.8, 0.9, 1e-6, 0.7)
    assert asked.use_distributed_optimizer


@pytest.mark.parametrize(
    ("dtype", "is_bf16", "parameters"), [("fp32", False, torch.float32), ("bf16", True, torch.bfloat16)]
)
def test_parameters_have_the_recipes_type(dtype: str, is_bf16: bool, parameters: torch.dtype, built: Any) -> None:
    asked, _, _ = built(training(f"dtype={dtype}"))
    assert (asked.bf16, asked.params_dtype) == (is_bf16, parameters)

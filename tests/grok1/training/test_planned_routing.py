"""Planned routing: what is drawn, and how long a draw stays."""

from __future__ import annotations

import pytest
import torch

from grok1.config.load import ONE_RANK, load_recipe
from grok1.training import planned_routing
from grok1.training.planned_routing import Routing, RoutingPlan, drawn_map

_CAPACITY = ("kernels.dispatch=megatron", "training.expert_capacity_factor=1.0")


class _Router(torch.nn.Module):
    """Sends all tokens to the first two of eight experts."""

    def forward(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        map_TE = torch.zeros(num_tokens, 8, dtype=torch.bool)
        map_TE[:, :2] = True
        return torch.full((num_tokens, 8), 0.5), map_TE


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = _Router()


def _planned(monkeypatch: pytest.MonkeyPatch, *changes: str) -> tuple[RoutingPlan, list[_Layer]]:
    monkeypatch.setattr(planned_routing, "MoELayer", _Layer)
    layers = [_Layer(), _Layer()]
    plan = RoutingPlan(load_recipe("grok1-nano", [*ONE_RANK, *changes]), Routing.balanced(8))
    plan.apply(torch.nn.ModuleList(layers))
    return plan, layers


def test_routers_send_tokens_evenly_until_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layers = _planned(monkeypatch)
    for layer in layers:
        assert layer.router(64)[1].sum(0).tolist() == [16] * 8


def test_a_draw_stays_for_each_router_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, (first, second) = _planned(monkeypatch)
    first.router(64)
    maps = []
    for seed in (1, 2, 1):
        plan.draw(seed)
        maps.append(first.router(64)[1])
        assert torch.equal(first.router(64)[1], maps[-1])  # as a layer that is computed again must have it
        assert not torch.equal(second.router(64)[1], maps[-1])
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])


def test_what_is_drawn_has_equal_chances_and_no_expert_twice() -> None:
    map_TE = drawn_map(80_000, 8, 2, torch.Generator().manual_seed(1))
    assert (map_TE.sum(1) == 2).all()
    spread = (map_TE.sum(0) - 20_000).abs()
    assert 0 < spread.max() < 700  # over five standard deviations, of 122 each


def test_a_draw_keeps_to_the_experts_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, (layer, _) = _planned(monkeypatch, *_CAPACITY)
    plan.draw(1)
    counts = layer.router(32)[1].sum(0)  # a micro-batch of the recipe
    assert counts.max() == 8
    assert counts.min() < 8

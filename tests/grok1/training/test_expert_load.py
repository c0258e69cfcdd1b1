"""Tokens are counted once a router, and not at all while the counter is told to leave them alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grok1.training import expert_load
from grok1.training.expert_load import ExpertLoad


class _Router(torch.nn.Module):
    layer_number = 1
    config = SimpleNamespace(num_moe_experts=2)

    def forward(self, map_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return map_TE, map_TE


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = _Router()

    def forward(self, map_TE: torch.Tensor) -> Any:
        return self.router(map_TE)


def test_counting_stops_inside_and_goes_on_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_load, "MoELayer", _Layer)
    layer, map_TE = _Layer(), torch.tensor([[1, 0], [1, 0], [0, 1]])
    load = ExpertLoad(layer, is_padded=False)
    layer(map_TE)
    with load.uncounted():
        layer(map_TE)
    assert load.drain() == {0: [2, 1]}
    layer(map_TE)
    assert load.drain() == {0: [2, 1]}  # once, not twice
    with torch.no_grad():
        layer(map_TE)  # recomputation runs the router a first time without gradients
    assert load.drain() == {0: [0, 0]}


class _Padding(_Router):
    """Its maps hold each expert's every token, of which some have probability 0."""

    def forward(self, probs_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return probs_TE, torch.ones_like(probs_TE, dtype=torch.bool)


@pytest.mark.parametrize(("is_padded", "counts"), [(True, [2, 1]), (False, [3, 3])])
def test_tokens_that_fill_an_expert_up_count_as_none(
    is_padded: bool, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_load, "MoELayer", _Layer)
    layer = _Layer()
    layer.router = _Padding()
    load = ExpertLoad(layer, is_padded)
    layer(torch.tensor([[0.5, 0.0], [1.0, 0.5], [0.0, 0.0]]))
    [(tokens, counts_E)] = load.settle()
    assert (tokens, counts_E.tolist()) == (3, counts)
    assert load.settle() == []

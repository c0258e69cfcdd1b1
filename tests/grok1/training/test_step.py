"""What a step reports, by hand on one rank: losses averaged over routers and ranks, pairs dropped, a rank's share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from grok1.config.load import load_recipe
from grok1.training import step
from grok1.training.step import Stepper

# 4 ranks, of which all share each sequence; 3 layers, 2 micro-batches: 6 routers ran
SHARED = (
    *("parallel.world_size=4", "parallel.tensor=2", "parallel.context=2", "parallel.pipeline=1", "parallel.expert=2"),
    *("parallel.expert_tensor=1", "model.num_layers=3", "training.global_batch=2", "kernels.dispatch=megatron"),
)


def stepper(patch: pytest.MonkeyPatch, *changes: str, sums: dict[str, float] | None = None) -> Any:
    """A stepper of a rank that reports the loss, whose collectives give back what it put in."""
    made: Any = object.__new__(Stepper)
    made.recipe, made.ranks = load_recipe("grok1-nano", [*SHARED, *changes]), SimpleNamespace(reports_loss=True)
    tracked = {name: {"values": torch.full((3,), value)} for name, value in (sums or {}).items()}
    patch.setattr(step, "aux_loss_sums", lambda: tracked)
    patch.setattr(step, "clear_aux_losses_tracker", tracked.clear)
    patch.setattr(dist, "all_reduce", lambda _tensor: None)
    made.tracked = tracked
    return made


def test_losses_are_means_over_routers_and_the_z_loss_over_the_ranks_of_a_sequence_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """megatron's sums by layer, over both micro-batches: 12 each. Four ranks have means of their own tokens."""
    sums = {"load_balancing_loss": 12.0, "z_loss": 12.0}
    made = stepper(monkeypatch, "model.z_loss_coefficient=0.001", sums=sums)
    found = made.reduce_losses([torch.tensor(5.0), torch.tensor(7.0)])
    assert found == pytest.approx((6.0, 36 / 6, 36 / 6 / 4))
    assert made.tracked == {}, "the next step begins with none"
    assert stepper(monkeypatch, sums={"z_loss": 12.0}).reduce_losses([torch.tensor(5.0)])[2] is None


def test_dropped_pairs_are_those_that_no_expert_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of 10 tokens, each to two experts: 20 pairs, of which 17 and 20 found room."""
    routed = [(10, torch.tensor([9, 8])), (10, torch.tensor([10, 10]))]
    with_capacity = stepper(monkeypatch, "training.expert_capacity_factor=1.0")
    assert with_capacity._dropped_pairs(routed) == 3
    assert stepper(monkeypatch)._dropped_pairs(routed) is None


def test_the_shares_of_a_sequences_ranks_add_up_to_the_mean() -> None:
    losses = torch.tensor([[1.0, 3.0]])
    assert [step._mean_loss(losses, context=ranks)[0].item() for ranks in (1, 2)] == [2.0, 1.0]
    weights = torch.tensor([[0.5, 0.25]])
    share, told = step._mean_loss(losses, weights, context=2)  # weights are shares already
    assert (share.item(), told["loss"].item()) == (1.25, 1.25)

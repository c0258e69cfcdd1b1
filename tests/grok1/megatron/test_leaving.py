"""A process that leaves a job keeps nothing of it, as it may join another."""

from __future__ import annotations

import importlib

import pytest
import torch

from grok1.megatron.door import aux_loss_tracker, parallel_state


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_routers_sums_which_have_a_place_for_each_layer_are_forgotten() -> None:
    record = importlib.import_module("megatron.core.transformer.moe.moe_utils").save_to_aux_losses_tracker
    record("load_balancing_loss", torch.ones(()), 1, 2)
    assert aux_loss_tracker()
    parallel_state.destroy_model_parallel()
    assert not aux_loss_tracker()

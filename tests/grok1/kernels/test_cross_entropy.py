"""Cross-entropy of split logits beside torch's own of the whole ones, in float64."""

from __future__ import annotations

import pytest

from grok1.config.load import ONE_RANK
from tests.grok1.conftest import FOUR_RANKS, Train

BOUNDS = {"one block": 1e-6, "many blocks": 1e-6, "huge logits": 1e-6, "bf16": 4e-3}  # bf16 keeps 8 bits


@pytest.mark.parametrize(
    "layout", [ONE_RANK, pytest.param(FOUR_RANKS, marks=pytest.mark.slow)], ids=["one rank", "four tensor ranks"]
)
def test_losses_and_gradients_are_torchs_of_the_whole_vocabulary(layout: tuple[str, ...], train: Train) -> None:
    found = train(1, *layout, entry="tests.grok1.kernels.loss_entries:beside_torch")
    assert list(found) == list(BOUNDS)
    for name, bound in BOUNDS.items():
        assert found[name]["loss"] <= 1e-6, name  # losses are float32 whatever the logits are
        assert found[name]["gradient"] <= bound, name
    assert found["many blocks"]["kept"] == pytest.approx(1, abs=1e-3)  # the logits, and a few numbers a token

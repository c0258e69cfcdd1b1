"""The fused dense layers beside megatron's: every output and gradient, in one rank and over four."""

from __future__ import annotations

from typing import Any

import pytest

from grok1.config.load import ONE_RANK
from tests.grok1.conftest import FOUR_RANKS, Train

ENTRIES = "tests.grok1.kernels.linear_entries"
LAYERS, WAYS = 2, 5


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("choices", "splits", "bound"),
    [(ONE_RANK, 1, 2e-6), (FOUR_RANKS, 2, 2e-6), ((*FOUR_RANKS, "training.dtype=bf16"), 2, 2e-2)],
    ids=["one rank", "four tensor ranks", "four tensor ranks, bf16"],
)
def test_fused_layers_compute_what_megatrons_do(
    choices: tuple[str, ...], splits: int, bound: float, train: Train
) -> None:
    ranks: Any = train(1, *choices, entry=f"{ENTRIES}:dense_beside_megatrons")
    for errors in ranks:
        assert len(errors) == LAYERS * WAYS * splits
        assert all(len(tensors) == 2 * 3 + 1 for tensors in errors.values())
        too_large = {
            case: {name: error for name, error in tensors.items() if not error <= bound}
            for case, tensors in errors.items()
        }
        assert not {case: tensors for case, tensors in too_large.items() if tensors}


def test_megatrons_hook_has_nothing_left_to_add(train: Train) -> None:
    left: Any = train(1, *ONE_RANK, entry=f"{ENTRIES}:gradients_left_to_the_hook")
    assert left == 0


def test_the_recipe_chooses(train: Train) -> None:
    assert train(1, *ONE_RANK, entry=f"{ENTRIES}:choices") == {
        "megatron": ["ColumnParallelLinear", "RowParallelLinear", "ColumnParallelLinear"],
        "fused": ["FusedColumnLinear", "FusedRowLinear", "FusedColumnLinear"],
    }

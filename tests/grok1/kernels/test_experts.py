"""The fused experts beside megatron's SequentialMLP: every output and gradient, whatever each expert gets."""

from __future__ import annotations

from typing import Any

import pytest

from grok1.config.load import ONE_RANK
from tests.grok1.conftest import Train

ENTRIES = "tests.grok1.kernels.expert_entries"
LARGE = ("model.hidden_size=192", "model.ffn_hidden_size=1024")  # whose larger products are oneDNN's


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("choices", "bound"),
    [
        (("model.activation=swiglu", *LARGE), 2e-6),
        (("model.activation=geglu",), 2e-6),
        (("training.dtype=bf16",), 2e-2),
    ],
    ids=["swiglu", "geglu", "bf16"],
)
def test_fused_experts_compute_what_sequential_ones_do(choices: tuple[str, ...], bound: float, train: Train) -> None:
    errors: dict[str, Any] = train(1, *ONE_RANK, *choices, entry=f"{ENTRIES}:experts_beside_sequential")
    assert len(errors) == 10
    too_large = {
        case: {name: error for name, error in tensors.items() if not error <= bound} for case, tensors in errors.items()
    }
    assert not {case: tensors for case, tensors in too_large.items() if tensors}
    assert all(len(tensors) == 2 * 3 + 2 * 8 for tensors in errors.values())

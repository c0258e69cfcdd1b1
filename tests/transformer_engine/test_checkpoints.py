"""Checkpoints of Transformer Engine's experts: weights are everybody's, the optimizer's state is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(1000), pytest.mark.slow]


@pytest.fixture(scope="module")
def found(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What saving, resuming and loading gave, on two expert ranks."""
    return run("--layout", "two expert ranks", "--checkpoints")


def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(found: dict[str, Any]) -> None:
    assert len(found["whole"]) == 4
    assert found["resumed"] == found["whole"][2:]


@pytest.mark.parametrize("writer", ["plain", "engine"])
def test_each_loads_the_others_weights(found: dict[str, Any], writer: str) -> None:
    digests = found["weights"][writer]
    assert len(digests["plain"]) > 30
    assert digests["plain"] == digests["engine"]


def test_what_sequential_experts_load_of_its_checkpoint_is_what_was_trained(found: dict[str, Any]) -> None:
    assert found["weights"]["engine"]["plain"] == found["trained"]


def test_the_optimizers_state_of_the_other_is_refused_in_one_line(found: dict[str, Any]) -> None:
    for writer, choices in (("plain", ("sequential", "te_grouped")), ("engine", ("te_grouped", "sequential"))):
        stored, wanted = choices
        assert f"written with kernels.experts={stored}, the recipe says {wanted}" in found["refusals"][writer]
        assert "\n" not in found["refusals"][writer]

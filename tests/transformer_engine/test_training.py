"""Steps with Transformer Engine's parts give what megatron's own give, on one rank and on two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transformer_engine.engine_run.cases import CASES, LAYOUTS, Case

Run = Callable[..., dict[str, Any]]

pytestmark = [pytest.mark.timeout(1000), pytest.mark.slow]
every_case = pytest.mark.parametrize(
    ("layout", "case"), [pytest.param(layout, case, id=f"{case.name}-{layout}") for layout in LAYOUTS for case in CASES]
)


@every_case
def test_losses_gradient_norms_and_updates_are_those_without_it(run: Run, layout: str, case: Case) -> None:
    plain, engine = (run("--layout", layout)[case.name][side] for side in ("plain", "engine"))
    tolerance = 1e-3 if case.is_bf16 else 1e-6
    assert engine["loss"] == pytest.approx(plain["loss"], rel=tolerance)
    assert engine["aux_loss"] == pytest.approx(plain["aux_loss"], rel=10 * tolerance)
    assert engine["grad_norm"] == pytest.approx(plain["grad_norm"], rel=10 * tolerance)
    if not case.is_bf16:  # there most updates round to nothing
        assert len(engine["updates"]) > 30
        assert max(engine["updates"].values()) <= 1e-4


@every_case
def test_it_is_transformer_engine_that_ran(run: Run, layout: str, case: Case) -> None:
    plain, engine = (run("--layout", layout)[case.name][side] for side in ("plain", "engine"))
    assert case.functions <= set(engine["functions"])
    assert not case.functions & set(plain["functions"])
    classes = {
        "kernels.experts=te_grouped": {"TEGroupedMLP", "TEColumnParallelGroupedLinear", "TERowParallelGroupedLinear"},
        "kernels.attention=te": {"TEDotProductAttention"},
    }
    for choice, names in classes.items():
        assert (names <= set(engine["classes"])) is (choice in case.kernels)
        assert not names & set(plain["classes"])


def test_its_own_adam_which_megatron_takes_unasked_steps_as_torchs(run: Run) -> None:
    found = run("--layout", "one rank")["experts"]["plain"]
    expected = run("--layout", "one rank", "--plain", "--only", "experts")["experts"]["plain"]
    assert (found["optimizer"], expected["optimizer"]) == ("FusedAdam", "AdamW")
    for name in ("loss", "grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)

"""The 2-layer system test's published memory beside what the ledger counts of that job.

The test stored figures of the allocator after its first step, in MiB. Its script sets --reuse-fp32-param, and not the
gradients' dtype. The ledger runs on a CPU, which has no such reuse: what it saves is derived here. Of each fp32 copy,
4 bytes, 2 remain: the bits that the bf16 weight does not hold.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest

from grok1.config.load import load_recipe
from grok1.distributed.launch import rank_context
from tests.bench.ledger.ledger_entries import first_step_and_ledger

ALLOCATED_MIB, PEAK_MIB = 19_942.94140625, 21_687.2841796875
RECIPE = "grok1-40b-2layer"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Counted:
    """MiB of rank 0 with reused fp32 parameters. `static` leaves out what a step makes and does not free."""

    static: float
    peak: float
    first_peak: float
    after_first: float


def _saved_by_reuse() -> int:
    recipe = load_recipe(RECIPE)
    dense, expert = recipe.parameters_per_rank()
    return 2 * (dense // recipe.parallel.data + expert // recipe.parallel.expert_data)


@pytest.fixture(scope="module")
def mib() -> dict[str, Counted]:
    """By the gradients' dtype."""
    dtypes, saved = ("bf16", "fp32"), _saved_by_reuse()
    recipes = [load_recipe(RECIPE, [f"training.gradient_dtype={dtype}"]) for dtype in dtypes]
    with ProcessPoolExecutor(2, mp_context=rank_context("cpu", "grok1.training.fake_step")) as pool:
        counted = list(pool.map(first_step_and_ledger, recipes))
    return {
        dtype: Counted(
            *((each - saved) / 2**20 for each in (ledger.memory.static_bytes, ledger.memory.peak_bytes, peak, after))
        )
        for dtype, (peak, after, ledger) in zip(dtypes, counted, strict=True)
    }


def test_between_steps_bf16_gradients_and_reuse_are_the_published_bytes_and_fp32_ones_are_not(
    mib: dict[str, Counted],
) -> None:
    assert mib["bf16"].static == pytest.approx(ALLOCATED_MIB, rel=0.02)
    assert mib["bf16"].static == pytest.approx(19_975.9, abs=0.5)  # 0.17 % above
    assert mib["fp32"].static == pytest.approx(23_132.2, abs=0.5)  # what the script's options mean: 16 % above
    without = mib["bf16"].static + _saved_by_reuse() / 2**20
    assert without > 1.1 * ALLOCATED_MIB  # so both are needed


def test_the_published_peak_is_below_ours_with_either_dtype(mib: dict[str, Counted]) -> None:
    assert mib["bf16"].peak / PEAK_MIB - 1 == pytest.approx(0.17, abs=0.01)
    assert mib["fp32"].peak / PEAK_MIB - 1 == pytest.approx(0.11, abs=0.01)


def test_in_the_first_step_which_was_published_moments_and_activations_never_meet(mib: dict[str, Counted]) -> None:
    """In fp32 what stays is the peak; with bf16 gradients it is megatron's fp32 copies of them, which stay too."""
    assert mib["fp32"].first_peak == pytest.approx(mib["fp32"].static, abs=0.5)
    assert mib["fp32"].first_peak / PEAK_MIB - 1 == pytest.approx(0.067, abs=0.001)
    dense, expert = load_recipe(RECIPE).parameters_per_rank()
    copies = 4 * (dense // 2 + expert) / 2**20  # two replicas of dense weights, one of experts'
    assert mib["bf16"].first_peak - mib["bf16"].static == pytest.approx(copies, abs=0.5)
    assert mib["bf16"].after_first == pytest.approx(mib["bf16"].first_peak, abs=0.5)
    assert mib["bf16"].after_first > 1.25 * ALLOCATED_MIB  # so the published job had no such copies

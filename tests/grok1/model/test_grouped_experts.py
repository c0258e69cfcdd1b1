"""megatron's grouped experts over torch's products in place of the package: their numbers, weights and refusals.

No GPU and no NPU runs here. What is held: that the choice reaches megatron's GroupedMLP, that what we hand it and read
from it is right in every layout, and that its products are asked for as grouped_gemm and MindSpeed's stand-in want it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.device import kind, mindspeed_options
from grok1.distributed.launch import LaunchError, check_machine
from grok1.training.result import RunResult
from grok1.weights.folder import StoredCheckpoint
from tests.grok1.conftest import Train, column
from tests.lines import LINE, WITH_GROUPED_EXPERTS

ENTRIES = "tests.grok1.kernels.expert_entries"
GROUPED = {"entry": f"{ENTRIES}:train_grouped"}
BF16 = "training.dtype=bf16"
SAME = 1e-5  # relative; fp32 sums in another order


@pytest.mark.matrix(keep=1)
@WITH_GROUPED_EXPERTS
@pytest.mark.parametrize("entry", ["grouped_beside_sequential", "grouped_beside_sequential_patched"])
def test_grouped_experts_compute_what_sequential_ones_do(entry: str, train: Train) -> None:
    errors: dict[str, Any] = train(1, *ONE_RANK, "model.activation=swiglu", entry=f"{ENTRIES}:{entry}")
    assert len(errors) == 10
    for case, tensors in errors.items():
        assert len(tensors) == 2 * 3 + 2 * 8
        assert not {name: error for name, error in tensors.items() if not error <= 2e-6}, case


@pytest.mark.slow
@WITH_GROUPED_EXPERTS
@pytest.mark.parametrize("dispatch", ["merged", "megatron"])
def test_sixteen_ranks_of_them_give_the_numbers_of_one_with_sequential_ones(
    dispatch: str, train: Train, one_rank: RunResult
) -> None:
    grouped = train(10, f"kernels.dispatch={dispatch}", **GROUPED)
    for name in ("loss", "grad_norm", "aux_loss"):
        assert column(grouped, name) == pytest.approx(column(one_rank, name), rel=SAME)
    assert grouped.expert_load == one_rank.expert_load


@pytest.mark.slow
@WITH_GROUPED_EXPERTS
def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(train: Train, tmp_path: Path) -> None:
    whole = train(5, BF16, **GROUPED)
    train(3, BF16, save=tmp_path, **GROUPED)
    resumed = train(5, BF16, load=tmp_path, **GROUPED)
    for name in ("loss", "grad_norm"):
        assert column(resumed, name) == column(whole, name)[3:]


@pytest.mark.slow
@WITH_GROUPED_EXPERTS
def test_each_loads_the_others_weights_in_any_layout_and_refuses_its_optimizer_state(
    train: Train, tmp_path: Path
) -> None:
    loaded = "tests.grok1.weights.weights_entries:loaded_weights"
    recipes = {
        "sequential": load_recipe("grok1-nano", [BF16, "kernels.experts=sequential"]),
        "grouped": load_recipe("grok1-nano", [BF16, "kernels.experts=grouped"]),
    }
    for writer, settings in (("sequential", {}), ("grouped", GROUPED)):
        folder = tmp_path / writer
        train(2, BF16, "kernels.experts=sequential", save=folder, **settings)
        as_sequential = train(1, *ONE_RANK, BF16, load=folder, entry=loaded)
        as_grouped = train(1, BF16, load=folder, entry=f"{ENTRIES}:grouped_weights")
        assert as_sequential.keys() == as_grouped.keys()
        assert all(np.isfinite(each).all() for each in as_grouped.values())
        assert all(np.array_equal(as_sequential[key], as_grouped[key]) for key in as_sequential)
        (reader,) = recipes.keys() - {writer}
        stored = StoredCheckpoint.open(folder)
        assert stored.step == 2
        stored.check_resumable(recipes[writer])
        with pytest.raises(ValueError, match=f"written with kernels.experts={writer}.*resume with"):
            stored.check_resumable(recipes[reader])


def _nano(*overrides: str) -> Recipe:
    return load_recipe("grok1-nano", (BF16, "kernels.experts=grouped", *overrides))


def test_a_cpu_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match=r"kernels.experts grouped: a CPU .*set kernels.experts=fused") as caught:
        check_machine(_nano(), "cpu", 16)
    assert "\n" not in str(caught.value)


def test_cuda_without_the_package_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "installed", lambda module: module != "grouped_gemm")
    with pytest.raises(ValueError, match=r"package grouped_gemm .*docs/gpus.md.*kernels.experts=sequential"):
        kind.check_grouped_gemm("cuda")
    monkeypatch.setattr(kind, "installed", lambda module: True)
    kind.check_grouped_gemm("cuda")
    kind.check_grouped_gemm("npu")  # MindSpeed's, whose presence is checked with the device


@pytest.mark.skipif(importlib.util.find_spec("grouped_gemm") is not None, reason="grouped_gemm is installed")
def test_a_rank_without_it_says_so_in_one_line(train: Train) -> None:
    why = "megatron-core 0.19 has no grouped experts" if LINE == "0.19" else "megatron finds no grouped GEMM"
    with pytest.raises(LaunchError, match=rf"^kernels.experts grouped: {why} .*set kernels.experts=sequential"):
        train(1, *ONE_RANK, entry=f"{ENTRIES}:build_grouped")


def test_mindspeed_is_not_asked_for_its_own_grouped_experts() -> None:
    """Their forward reads `fp8`, an option of Megatron's parser, which a program without that parser does not have."""
    recorded = json.loads(Path(__file__).parents[1].joinpath("mindspeed_flags.json").read_text(encoding="utf-8"))[
        "options"
    ]
    assert "fp8" not in recorded
    assert "moe-grouped-gemm" not in mindspeed_options.mindspeed_flags()


def test_the_ascend_job_keeps_sequential_experts() -> None:
    recipe = load_recipe("grok1-40b")  # MindSpeed's own table: grouped products lose 5.3 % at this width
    assert (recipe.model.ffn_hidden_size, recipe.kernels.experts) == (32768, "sequential")

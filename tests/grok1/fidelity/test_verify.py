"""Our model against xAI's: real dumps and dumps of odd sizes, in many layouts; and that the comparison is alive."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tests.grok1.fidelity.verify_entries as flips
import tests.grok1.fidelity.xai_reference as xai
from grok1.config.load import load_recipe
from grok1.distributed.launch import launch
from grok1.fidelity.dump import Dump, check_dump
from grok1.fidelity.dump_recipe import oracle_recipe
from grok1.fidelity.job import VerifyJob
from grok1.fidelity.result import Comparison, VerifyResult
from tests.grok1.conftest import FIXTURES, run_grok1
from tests.limits import HANG_SECONDS

KEYS = ["oracle", "layout", "loss", "loss_expected", "loss_error", "max_logit_abs_error", "worst_gradient", "passed"]
KEYS += ["tensors", "software"]
TP2_PP2_EP2 = ("parallel.tensor=2", "parallel.pipeline=2", "parallel.expert=2")
CP2, A2A = ("parallel.context=2",), ("parallel.context_exchange=a2a",)
TP4_PP2_EP2 = ("parallel.tensor=4", "parallel.pipeline=2", "parallel.expert=2")


def verified(path: Path, *overrides: str, entry: str = "grok1.fidelity.verify:run_rank") -> Any:
    """What rank 0 found."""
    job = VerifyJob(oracle_recipe(Dump(path), overrides), path)
    return launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS)


def assert_within_bounds(result: VerifyResult) -> None:
    """The bounds again, so that a wrong verdict or a loosened constant is seen."""
    failed = [each for each in result.tensors if not each.passed]
    assert result.passed, failed
    assert result.of_loss.max_abs_error <= 1e-6
    assert result.of_logits.max_abs_error <= 2e-5
    assert result.worst_gradient.relative_error <= 5e-5


# ---- xAI's own numbers ---------------------------------------------------------------------------------


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize(
    "layout",
    [(), TP2_PP2_EP2, CP2, (*CP2, *A2A), (*CP2, "parallel.tensor=2", "parallel.expert=2")],
    ids=["1-rank", "TP2-PP2-EP2", "CP2", "CP2-a2a", "CP2-TP2-EP2"],
)
def test_reproduces_xais_model(layout: tuple[str, ...]) -> None:
    result = verified(FIXTURES / "D.npz", *layout)
    assert_within_bounds(result)
    assert len(result.tensors) == 28  # loss, logits and every weight's gradient


@pytest.mark.slow
def test_reproduces_xais_model_on_sixteen_ranks() -> None:
    result = verified(FIXTURES / "F.npz", *TP4_PP2_EP2)
    assert result.layout.world_size == 16
    assert_within_bounds(result)
    assert len(result.tensors) == 52


# ---- the independent reference, which makes dumps of other sizes ---------------------------------------


def test_the_reference_reproduces_xais_numbers() -> None:
    with np.load(FIXTURES / "D.npz") as dump, np.load(FIXTURES / "D.grads.npz") as gradients:
        config = json.loads(dump["config_json"].item())
        weights = {
            name.removeprefix("param."): torch.from_numpy(dump[name]).double().requires_grad_()
            for name in dump.files
            if name.startswith("param.")
        }
        logits, _ = xai.forward(config, weights, torch.from_numpy(dump["tokens"]).long())
        loss = xai.loss_of(logits, torch.from_numpy(dump["targets"]).long())
        loss.backward()
        assert abs(loss.item() - dump["loss"]) < 1e-6
        assert np.abs(logits.detach().numpy() - dump["logits"]).max() < 2e-6
        for name, weight in weights.items():
            assert weight.grad is not None
            expected = gradients[f"grad.{name}"]
            assert np.abs(weight.grad.numpy() - expected).max() < 1e-5 * np.abs(expected).max(), name


ODD: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    # nothing divides 17; one key head; 3 layers; 4 experts 88 wide; rows of which two ranks cannot take one each
    "odd": (
        {"seq": 17, "vocab_size": 1000, "num_layers": 3, "num_kv_heads": 1, "batch": 3, "num_experts": 4},
        (),
    ),
    # rows of no pads, some, all, one; 11 columns of an expert a rank; as many key heads as query heads
    "pads": ({"seq": 17, "batch": 4, "ffn_size": 44, "num_kv_heads": 4}, (0, 3, 17, 1)),
    "low cap": ({"softcap": 3.0}, ()),
    "deep": ({"batch": 2, "num_layers": 4, "ffn_size": 88}, ()),
    "single": ({"batch": 1, "num_layers": 1, "ffn_size": 88}, ()),
    "other constants": (
        {"attn_output_multiplier": 0.1, "rope_base": 5000, "norm_eps": 1e-6, "softcap": 20.0, "pad_token": 3},
        (2, 0),
    ),
}


@pytest.fixture(scope="module")
def odd_dump(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A dump of ODD, made on first use."""
    folder = tmp_path_factory.mktemp("dumps")

    def make(name: str) -> Path:
        path = folder / f"{name.replace(' ', '-')}.npz"
        if not path.exists():
            sizes, pads = ODD[name]
            xai.write_dump(path, xai.config(**sizes), pads)
            check_dump(path)
        return path

    return make


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("odd", ()),
        ("odd", ("parallel.pipeline=3", "parallel.expert=2")),
        ("odd", ("parallel.pipeline=2", "parallel.first_stage_layers=1")),
        ("deep", ("parallel.pipeline=2", "parallel.virtual_pipeline=2")),
        ("pads", ()),
        ("pads", ("parallel.tensor=4", "parallel.expert=2")),
        ("pads", ("parallel.tensor=2", "parallel.pipeline=2", "training.micro_batch=2")),
        ("odd", CP2),  # the second rank's share of the mean is smaller
        ("pads", (*CP2, "training.micro_batch=2")),
        ("pads", (*CP2, *A2A, "parallel.tensor=2")),
        ("single", ("parallel.tensor=2", "parallel.expert=4", "parallel.expert_tensor=1")),
        ("single", ("parallel.tensor=2", "parallel.expert=2", "parallel.dispatcher=allgather")),
        ("single", ("training.recompute=full",)),
        ("other constants", TP2_PP2_EP2),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "1-rank",
)
def test_reproduces_any_dump(odd_dump: Callable[[str], Path], name: str, layout: tuple[str, ...]) -> None:
    assert_within_bounds(verified(odd_dump(name), *layout))


@pytest.mark.parametrize(
    ("name", "layout", "complaint"),
    [
        ("odd", "parallel.pipeline=2", "num_layers 3 is not a multiple of parallel.pipeline 2"),
        ("odd", "parallel.tensor=2", "num_query_groups 1 is not a multiple of parallel.tensor 2"),
        ("odd", "parallel.expert=8", "num_experts 4 is not a multiple of parallel.expert 8"),
        ("odd", "parallel.tensor=two", "parallel.tensor"),
        ("odd", "model.hidden_size=64", "model.hidden_size 64 is not the dump's 32"),
        ("odd", "training.sequence_length=16", "do not hold the dump's 3 rows of 17"),
        ("odd", "training.global_batch=4", "do not hold the dump's 3 rows of 17"),
    ],
)
def test_a_layout_that_cannot_hold_the_dump_is_refused(
    odd_dump: Callable[[str], Path], name: str, layout: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        oracle_recipe(Dump(odd_dump(name)), [layout])


# ---- the comparison is alive ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flipped(odd_dump: Callable[[str], Path]) -> dict[str, VerifyResult]:
    """The comparison under every flip; those that D cannot show on a dump that can."""
    results: dict[str, VerifyResult] = {}
    for path in (FIXTURES / "D.npz", odd_dump("pads"), odd_dump("low cap")):
        of_dump = verified(path, entry=f"{flips.__name__}:flip_each")
        of_dump[f"unchanged {path.stem}"] = of_dump.pop("unchanged")
        results |= of_dump
    return results


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("name", ["unchanged D", "unchanged pads", "unchanged low-cap"])
def test_passes_in_the_process_of_the_flips(flipped: dict[str, VerifyResult], name: str) -> None:
    assert_within_bounds(flipped[name])


@pytest.mark.parametrize("name", [*flips.PATCHES, *flips.RECIPE_FLIPS, *flips.PAD_PATCHES, *flips.LOW_CAP_PATCHES])
def test_one_flipped_choice_fails(flipped: dict[str, VerifyResult], name: str) -> None:
    result = flipped[name]
    assert not result.passed
    assert any(not each.passed for each in result.tensors)


def test_an_untied_head_shows_in_the_gradient_alone(flipped: dict[str, VerifyResult]) -> None:
    failed = [each.name for each in flipped["untied head"].tensors if not each.passed]
    assert failed == ["grad.in_out_embed.embeddings"]


# ---- the result ----------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_a_number_is_the_worst_and_fails() -> None:
    small, large, broken = (
        Comparison(name, error, error, 5e-5, error <= 5e-5)
        for name, error in (("small", 0.0), ("large", 1.0), ("broken", math.nan))
    )
    agreed = VerifyResult("D", load_recipe("grok1-nano").parallel, 1.0, 1.0, small, small, (small, small), {})
    assert agreed.passed
    for gradients in ((large, broken, small), (broken, large, small)):
        result = dataclasses.replace(agreed, of_gradients=gradients)
        assert (result.worst_gradient.name, result.passed) == ("broken", False)
    assert not dataclasses.replace(agreed, of_logits=large).passed


# ---- the command ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    done = run_grok1("verify", "--oracle", FIXTURES / "D.npz", "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "grad.layers.1.moe.linear_v.w" in done.stdout
    assert "PASS: all 28 tensors agree with D on 1 rank" in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["passed"] is True
    assert result["loss"] == pytest.approx(4.874163, abs=1e-5)
    assert result["loss_error"] <= 1e-6
    assert result["max_logit_abs_error"] <= 2e-5
    assert list(result) == ["schema", "recipe", *KEYS]
    assert list(result["layout"]) == ["world_size", "tensor", "pipeline", "expert", "expert_tensor", "data"]
    assert list(result["worst_gradient"]) == ["name", "relative_error"]
    keys = ["name", "max_abs_error", "relative_error", "tolerance", "passed"]
    assert [list(each) for each in result["tensors"]] == [keys] * 28


@pytest.mark.slow
def test_command_exits_with_one_where_they_differ() -> None:
    done = run_grok1("verify", "--oracle", FIXTURES / "D.npz", "--set", "model.activation=swiglu")
    assert done.returncode == 1
    assert "FAIL" in done.stdout.splitlines()[-1]


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = run_grok1("verify", "--oracle", tmp_path / "none.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr

"""kernels.norm=npu: torch_npu's kernel, held by a stand-in, gives what our norm gives; elsewhere it is refused."""

from __future__ import annotations

import sys

import pytest
import torch

import tests.grok1.model.npu_norm_entries as entries
from grok1.config.load import ONE_RANK, load_recipe
from grok1.device.kind import DeviceError, Kind, check_npu_norm
from grok1.distributed import launch as launching
from grok1.model.layers import NpuRMSNorm, RMSNorm
from grok1.model.model import transformer_config
from grok1.training.result import RunResult
from tests.grok1.conftest import Train, as_options, column, run_grok1

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}  # of a value, of the sizes below


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_both_norms_give_the_same_forwards_and_backwards(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", entries.stand_in())
    config = transformer_config(load_recipe("grok1-nano", ONE_RANK))
    config.params_dtype = dtype
    weight = torch.rand(256) + 0.5
    x_TH, upstream_TH = torch.randn(64, 256) * 3, torch.randn(64, 256)
    found = []
    for kind in (RMSNorm, NpuRMSNorm):
        norm = kind(config, 256, eps=0.1)  # large enough to be missed
        with torch.no_grad():
            norm.weight.copy_(weight)
        x = x_TH.to(dtype, copy=True).requires_grad_()
        y = norm(x)
        y.backward(upstream_TH.to(dtype))
        assert y.dtype == dtype
        assert x.grad is not None
        assert norm.weight.grad is not None
        found.append((y.detach(), x.grad, norm.weight.grad))
    for ours, kernel in zip(*found, strict=True):
        torch.testing.assert_close(kernel, ours, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * float(ours.abs().max()))


def test_training_calls_the_kernel_for_every_norm_and_learns_the_same(
    train: Train, one_rank: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "check_choices", lambda recipe, kind: None)
    result, calls = train(3, *ONE_RANK, "kernels.norm=npu", entry=f"{entries.__name__}:train_with_the_kernel")
    recipe = load_recipe("grok1-nano", ONE_RANK)
    assert calls == 3 * recipe.num_micro_batches * (4 * recipe.model.num_layers + 1)
    for name in ("loss", "grad_norm"):
        assert column(result, name) == pytest.approx(column(one_rank, name)[:3], rel=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_is_refused_off_npus(device: Kind) -> None:
    with pytest.raises(
        DeviceError, match=f"^kernels.norm npu on {device}: .*; set kernels.norm=torch, or use --device npu$"
    ):
        check_npu_norm(device)


@pytest.mark.slow
def test_a_job_that_asks_for_it_on_a_cpu_ends_in_one_line() -> None:
    options = as_options([*ONE_RANK, "kernels.norm=npu"])
    done = run_grok1("train", "--recipe", "grok1-nano", "--device", "cpu", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("grok1: kernels.norm npu on cpu: ")
    joined = run_grok1(
        "train",
        "--recipe",
        "grok1-nano",
        "--device",
        "cpu",
        "--steps",
        "1",
        *options,
        RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29517",
    )
    assert joined.returncode == 2
    assert joined.stderr.splitlines()[-1].startswith("grok1: kernels.norm npu on cpu: ")


def test_a_recipe_that_does_not_choose_it_has_the_hash_it_had() -> None:
    plain, chosen = (load_recipe("grok1-nano", words) for words in ((), ("kernels.norm=npu",)))
    assert "norm" not in str(plain.kernels.model_dump(exclude_defaults=True))
    assert plain.hash() != chosen.hash()

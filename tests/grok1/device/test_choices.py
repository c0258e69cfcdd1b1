"""Choices of a recipe that only some devices have: refused elsewhere before anything starts, in one line."""

from __future__ import annotations

import pytest

from grok1.config.load import load_recipe
from grok1.device import kind
from grok1.distributed.launch import check_machine
from grok1.generation.job import generation_recipe

BF16 = "training.dtype=bf16"
CHOICES = {"kernels.linear": "mc2", "training.reuse_fp32_parameters": "true"}


@pytest.mark.parametrize("key", CHOICES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_only_mindspeed_has_is_refused_off_npus_with_the_remedy(key: str, device: kind.Kind) -> None:
    recipe = load_recipe("grok1-nano", [BF16, f"{key}={CHOICES[key]}"])
    with pytest.raises(kind.DeviceError, match=f"^{key}.*this is {device}; set {key}=") as caught:
        kind.check_choices(recipe, device)
    assert "\n" not in str(caught.value)
    kind.check_choices(recipe, "npu")


def test_a_job_with_mc2_is_refused_on_a_cpu_before_any_rank_starts() -> None:
    with pytest.raises(ValueError, match="kernels.linear mc2"):
        check_machine(load_recipe("grok1-nano", ["kernels.linear=mc2"]), "cpu", 16)


def test_generating_leaves_mc2_out_for_a_decoding_step_is_one_token_long() -> None:
    recipe = load_recipe("grok1-nano", ["kernels.linear=mc2"])
    assert generation_recipe(recipe).kernels == recipe.kernels.model_copy(update={"linear": "megatron"})


def test_an_npus_process_has_one_recipe_since_mindspeed_patches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (load_recipe("grok1-nano", [f"kernels.linear={linear}"]) for linear in ("mc2", "megatron"))
    monkeypatch.setattr(kind, "_recipe", None)
    kind.set_recipe(first)
    monkeypatch.setattr(kind, "_activated", "npu")
    kind.set_recipe(first)
    with pytest.raises(kind.DeviceError, match="made ready for grok1-nano; start another one"):
        kind.set_recipe(second)
    assert kind.chosen_recipe() == first

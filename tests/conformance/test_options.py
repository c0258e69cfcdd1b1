"""Every option that we pass reaches MindSpeed's real parser and changes what its row in MINDSPEED_FLAGS says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grok1.config.load import load_recipe
from grok1.device.mindspeed_options import MINDSPEED_FLAGS, mindspeed_flags
from tests.conformance.conformance_run.options import RECIPES
from tests.conformance.conftest import Checkouts

Found = dict[str, dict[str, Any]]  # by set of options

_ATTENTION = "megatron.core.transformer.dot_product_attention.DotProductAttention.forward"
_ADAM = "apex.optimizers.FusedAdam"
_SPLIT_LAYERS = {
    "megatron.core.extensions.transformer_engine.TEColumnParallelLinear",
    "megatron.core.extensions.transformer_engine.TERowParallelLinear",
    "megatron.core.tensor_parallel.layers.ColumnParallelLinear",
    "megatron.core.tensor_parallel.layers.RowParallelLinear",
}
_REUSE = {
    "megatron.core.distributed.param_and_grad_buffer._ParamAndGradBuffer.__init__",
    "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer.__init__",
    "megatron.core.optimizer.optimizer.Float16OptimizerWithFloat16Params.__init__",
    "megatron.core.optimizer.optimizer.MixedPrecisionOptimizer.prepare_grads",
    "megatron.core.optimizer.optimizer.MixedPrecisionOptimizer.step_with_ready_grads",
    "megatron.core.optimizer.optimizer_config.OptimizerConfig.__init__",
}
_NOTHING: dict[str, object] = {}
# what leaving one option out changes; a row says "none by itself" where that is nothing
CHANGES: dict[str, dict[str, object]] = {
    "ours without use-flash-attn": {"patches": {_ATTENTION}},
    "ours without position-embedding-type": {"config": "AttributeError"},
    "ours without use-fused-rotary-pos-emb": {"rope": 0},
    "ours without use-fused-rmsnorm": _NOTHING,
    "ours without use-fused-swiglu": _NOTHING,
    "ours without moe-permutation-async-comm": _NOTHING,
    "ours without optimizer-selection": _NOTHING,  # MindSpeed's default; another value is tried below
    "ours without optimization-level": _NOTHING,  # the same
    "mc2 without use-ascend-mc2": {"patches": _SPLIT_LAYERS},
    "mc2 without sequence-parallel": _NOTHING,
    "reuse without reuse-fp32-param": {"patches": _REUSE},
    "reuse without use-distributed-optimizer": _NOTHING,  # read when buffers are made
    "reuse without use-legacy-models": {"config": "AttributeError"},
}
REFUSED = {"mc2 without tensor-model-parallel-size": "has no attribute 'tensor_model_parallel_size'"}
# read by patches of parts that no recipe of ours has: Transformer Engine's layers, and RoPE by YaRN
MISSED = {
    "megatron.core.extensions.transformer_engine.TEGroupedLinear: get_args()",
    *(
        f"megatron.core.models.common.embeddings.rope_utils._apply_rotary_pos_emb_bshd: {name}"
        for name in ("rope_scaling_mscale", "rope_scaling_mscale_all_dim", "rope_scaling_type", "yarn_scaling_factor")
    ),
}


ASKS_MEGATRON = {path for path in _REUSE if path.endswith("__init__")}


@pytest.fixture(scope="module")
def found(checkouts: Checkouts, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What MindSpeed made of our options, and of our options less one."""
    output: Path = tmp_path_factory.mktemp("options") / "found.json"
    checkouts.run("npu", "-m", "conformance_run.options", "--output", output)
    answers: Found = json.loads(output.read_text(encoding="utf-8"))
    return answers


def _changed(found: Found, name: str, base: str = "ours") -> dict[str, object]:
    """What is not as with all options of the base."""
    before, after = found[base], found[name]
    assert "error" not in after, after["error"]
    both = before["patches"] | after["patches"]
    patches = {path for path in both if before["patches"].get(path) != after["patches"].get(path)}
    changed: dict[str, object] = {key: after[key] for key in ("config", "rope") if after[key] != before[key]}
    return changed | ({"patches": patches} if patches else {})


def test_every_option_arrives_as_each_recipe_passes_it(found: Found) -> None:
    for base, changes in RECIPES.items():
        passed = mindspeed_flags(load_recipe("grok1-nano", changes))
        read = found[base]["read"]
        assert {name: read[name] for name in passed if passed[name] is not False} == {
            name: value for name, value in passed.items() if value is not False
        }


def test_an_option_left_out_changes_what_its_row_says(found: Found) -> None:
    left_out = {name for name in found if " without " in name}
    assert left_out == {*CHANGES, *REFUSED}
    for name, change in CHANGES.items():
        assert _changed(found, name, name.split(" ")[0]) == change, name
    for name, words in REFUSED.items():
        assert words in found[name]["error"]


def test_every_option_has_been_left_out(found: Found) -> None:
    assert {name.rpartition(" ")[2] for name in found if " without " in name} == {flag.name for flag in MINDSPEED_FLAGS}


def test_another_optimizer_and_level_change_what_the_rows_say(found: Found) -> None:
    assert _changed(found, "torch's fused AdamW") == {"patches": {_ADAM}}
    changed = _changed(found, "level 0")["patches"]
    assert isinstance(changed, set)
    assert _ATTENTION in changed


def test_patches_find_the_arguments_that_they_read(found: Found) -> None:
    assert set(found["ours"]["missed"]) == set(found["mc2"]["missed"]) == MISSED
    # those of the reuse ask Megatron's arguments, which we make answer with MindSpeed's
    assert set(found["reuse"]["missed"]) - MISSED == {f"{path}: get_args()" for path in ASKS_MEGATRON}

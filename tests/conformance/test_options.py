"""Every option that we pass reaches MindSpeed's real parser and changes what its row in MINDSPEED_FLAGS says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grok1.device.accelerator import MINDSPEED_FLAGS, mindspeed_flags
from tests.conformance.conftest import Checkouts

pytestmark = pytest.mark.timeout(600)
Found = dict[str, dict[str, Any]]  # by set of options

_ATTENTION = "megatron.core.transformer.dot_product_attention.DotProductAttention.forward"
_ADAM = "apex.optimizers.FusedAdam"
_NOTHING: dict[str, object] = {}
# what leaving one option out changes; a row says "none by itself" where that is nothing
CHANGES: dict[str, dict[str, object]] = {
    "use-flash-attn": {"patches": {_ATTENTION}},
    "position-embedding-type": {"config": "AttributeError"},
    "use-fused-rotary-pos-emb": {"rope": 0},
    "use-fused-rmsnorm": _NOTHING,
    "use-fused-swiglu": _NOTHING,
    "moe-permutation-async-comm": _NOTHING,
    "optimizer-selection": _NOTHING,  # MindSpeed's default; another value is tried below
    "optimization-level": _NOTHING,  # the same
}
# read by patches of parts that no recipe of ours has: Transformer Engine's layers, and RoPE by YaRN
MISSED = {
    "megatron.core.extensions.transformer_engine.TEGroupedLinear: get_args()",
    *(
        f"megatron.core.models.common.embeddings.rope_utils._apply_rotary_pos_emb_bshd: {name}"
        for name in ("rope_scaling_mscale", "rope_scaling_mscale_all_dim", "rope_scaling_type", "yarn_scaling_factor")
    ),
}


@pytest.fixture(scope="module")
def found(checkouts: Checkouts, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What MindSpeed made of our options, and of our options less one."""
    output: Path = tmp_path_factory.mktemp("options") / "found.json"
    checkouts.run("npu", "-m", "conformance_run.options", "--output", output)
    answers: Found = json.loads(output.read_text(encoding="utf-8"))
    assert not [answer["error"] for answer in answers.values() if "error" in answer]
    return answers


def _changed(found: Found, name: str) -> dict[str, object]:
    """What is not as with all of our options."""
    ours, other = found["ours"], found[name]
    both = ours["patches"] | other["patches"]
    patches = {path for path in both if ours["patches"].get(path) != other["patches"].get(path)}
    changed: dict[str, object] = {key: other[key] for key in ("config", "rope") if other[key] != ours[key]}
    return changed | ({"patches": patches} if patches else {})


def test_every_option_arrives_as_we_pass_it(found: Found) -> None:
    assert found["ours"]["read"] == mindspeed_flags()


@pytest.mark.parametrize("name", [flag.name for flag in MINDSPEED_FLAGS])
def test_an_option_changes_what_its_row_says(found: Found, name: str) -> None:
    assert _changed(found, f"without {name}") == CHANGES[name]


def test_another_optimizer_and_level_change_what_the_rows_say(found: Found) -> None:
    assert _changed(found, "torch's fused AdamW") == {"patches": {_ADAM}}
    changed = _changed(found, "level 0")["patches"]
    assert isinstance(changed, set)
    assert _ATTENTION in changed


def test_patches_find_the_arguments_that_they_read(found: Found) -> None:
    assert set(found["ours"]["missed"]) == MISSED

"""The accelerator side of the seam without an accelerator: what is imported, when, and what MindSpeed reads.

Each run is a fresh interpreter with stand-ins for torch_npu and MindSpeed on its path, so that nothing leaks.
The stand-in parses sys.argv as MindSpeed does, with the options recorded from its sources in
mindspeed_flags.json. No stand-in shows that the real ones work on an NPU: docs/ascend.md says what was run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grok1.config.load import load_recipe
from grok1.device import accelerator, mindspeed_options
from tests.limits import HANG_SECONDS
from tests.lines import ONLY_0_12

ROOT = Path(__file__).parents[3]
RECORDED = Path(__file__).parents[1].joinpath("mindspeed_flags.json")
OPTIONS: dict[str, dict[str, str]] = json.loads(RECORDED.read_text(encoding="utf-8"))["options"]

OUR_WORDS = ["grok1", "train", "--hidden-dropout", "0.5", "--", "-k", "x"]  # each of them poison to MindSpeed

STAND_INS = {
    "events.py": "SEEN = []\nARGV = []\n",
    "torch_npu/__init__.py": """
        import sys, types
        import events
        events.SEEN.append("torch_npu")
        __version__ = "2.7.1"
        def _properties(index):
            return types.SimpleNamespace(total_memory=64 * 2**30)
        npu = types.SimpleNamespace(
            device_count=lambda: 8,
            get_device_name=lambda index: "Ascend910B3",
            get_device_properties=_properties,
        )
    """,
    "torch_npu/contrib/__init__.py": "",
    "torch_npu/contrib/transfer_to_npu.py": "import events\nevents.SEEN.append('transfer_to_npu')\n",
    "mindspeed/__init__.py": "",
    "mindspeed/args_utils.py": """
        import argparse, json, pathlib, sys
        OPTIONS = json.loads(pathlib.Path(__file__).with_name("flags.json").read_text())["options"]
        TYPES = {"int": int, "float": float}
        _ARGS = None

        def _unknown(words):
            known = {}
            for word in words:
                if word.startswith("-"):
                    key = word[2:].replace("-", "_")
                    known[key] = True
                else:
                    known[key] = word
            return known

        def get_mindspeed_args(get_defaults=False):
            global _ARGS
            if _ARGS is not None and not get_defaults:
                return _ARGS
            parser = argparse.ArgumentParser(allow_abbrev=False)
            for name, option in OPTIONS.items():
                if option["takes"] == "nothing":
                    parser.add_argument("--" + name, action="store_true")
                else:
                    parser.add_argument("--" + name, type=TYPES.get(option["takes"], str))
            args, words = parser.parse_known_args([] if get_defaults else sys.argv[1:])
            vars(args).update(_unknown(words))
            if not get_defaults:
                _ARGS = args
            return args
    """,
    "mindspeed/megatron_adaptor.py": """
        import sys
        import events
        from mindspeed.args_utils import get_mindspeed_args
        events.SEEN.append("mindspeed.megatron_adaptor")
        events.ARGV[:] = sys.argv
        get_mindspeed_args()
    """,
}

GLOBAL_VARS = "ARGS = None\ndef set_args(args):\n    global ARGS\n    ARGS = args\n"

SCRIPT = """
import json, sys
sys.argv = {words!r}
{before}
from grok1.config.load import load_recipe
from grok1.device import accelerator, mindspeed_options
recipe = load_recipe("grok1-nano", {recipe!r})
error = None
try:
    accelerator.use_npu(mindspeed_options.mindspeed_flags(recipe), local_ranks={ranks})
except ValueError as refusal:
    error = str(refusal)
try:
    import events
    from mindspeed import args_utils
    read = vars(args_utils.get_mindspeed_args()) if events.ARGV else {{}}
    seen, argv = events.SEEN, events.ARGV
except ImportError:
    read, seen, argv = {{}}, [], []
given = sys.modules.get("megatron.training.global_vars")
megatrons = vars(given.ARGS) if given else None
answer = dict(error=error, seen=seen, argv=argv, read=read, words=sys.argv, megatrons=megatrons)
print(json.dumps(answer, default=repr))
"""


def _write_stand_ins(folder: Path, changes: dict[str, str | None]) -> None:
    """The packages above under `folder`, with some files replaced or (None) left out."""
    for name, text in (STAND_INS | changes).items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    if (folder / "mindspeed").is_dir() and "mindspeed/flags.json" not in changes:
        (folder / "mindspeed" / "flags.json").write_text(RECORDED.read_text(encoding="utf-8"), encoding="utf-8")


def _python(folder: Path, script: str, **variables: str) -> Any:
    """What a fresh interpreter prints, as JSON, with `folder` before everything else on its path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    told = {key: value for key, value in os.environ.items() if key != "GROK1_DEVICE"}  # by tests of this process
    environment = {**told, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command,
        env=environment | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def use_npu(
    folder: Path,
    changes: dict[str, str | None] | None = None,
    *,
    before: str = "",
    ranks: int = 8,
    recipe: Sequence[str] = (),
) -> Any:
    """One call of `accelerator.use_npu` in a fresh interpreter, and what was seen of it."""
    _write_stand_ins(folder, changes or {})
    return _python(folder, SCRIPT.format(words=OUR_WORDS, before=before, ranks=ranks, recipe=list(recipe)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A call that nothing hinders, for all tests that only look at it."""
    return use_npu(tmp_path_factory.mktemp("npu"))


@pytest.mark.slow
def test_nothing_hinders_a_machine_that_has_everything(good: Any) -> None:
    assert good["error"] is None


def test_imports_come_in_the_order_that_is_their_api(good: Any) -> None:
    assert good["seen"] == ["torch_npu", "transfer_to_npu", "mindspeed.megatron_adaptor"]


def test_mindspeed_never_sees_our_words(good: Any) -> None:
    assert not set(good["argv"][1:]) & set(OUR_WORDS)
    assert "hidden_dropout" not in good["read"]


def test_our_words_are_back_after_mindspeed_parsed_its_own(good: Any) -> None:
    assert good["words"] == OUR_WORDS


def test_every_flag_of_the_ascend_recipe_arrives(good: Any) -> None:
    wanted = {flag.attribute: flag.default for flag in mindspeed_options.MINDSPEED_FLAGS if flag.default is not False}
    assert {name: good["read"].get(name) for name in wanted} == wanted


_CHOSEN = ["kernels.linear=mc2", "training.dtype=bf16", "training.reuse_fp32_parameters=true"]


@pytest.mark.slow
@ONLY_0_12
def test_a_recipes_own_flags_arrive_with_those_that_they_need(tmp_path: Path) -> None:
    arrived = use_npu(tmp_path, {"megatron/training/global_vars.py": GLOBAL_VARS}, recipe=_CHOSEN)
    assert arrived["error"] is None
    wanted = {
        "use_ascend_mc2": True,
        "tensor_model_parallel_size": "4",  # untyped: MindSpeed does not declare it, and makes a number of it itself
        "sequence_parallel": True,
        "reuse_fp32_param": True,
        "use_distributed_optimizer": True,
        "use_legacy_models": "",
    }
    assert {name: arrived["read"].get(name) for name in wanted} == wanted
    given = arrived["megatrons"]
    assert (given["reuse_fp32_param"], given["use_distributed_optimizer"], given["disable_gloo_group"]) == (True,) * 3


_RANK = """
def flags(job, where, emit):
    from grok1.device import seam
    seam.activate()
    from mindspeed.args_utils import get_mindspeed_args
    return vars(get_mindspeed_args())
"""
_START = """
import json
from grok1.commands.ranks import run_ranks
from grok1.config.load import load_recipe
from grok1.distributed.launch import ONE_MACHINE
if __name__ == "__main__":
    read = []
    for change in ("kernels.linear=mc2", "model.activation=geglu")[: {jobs}]:
        layout = ["parallel.world_size=2", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=1"]
        recipe = load_recipe("grok1-nano", [*layout, "parallel.expert_tensor=2", change])
        read.append(run_ranks("flags_entry:flags", None, recipe, "npu", ONE_MACHINE, print))
    print(json.dumps(read))
"""


@ONLY_0_12
@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["torchrun", "our launcher"],
)
def test_each_jobs_ranks_get_the_flags_of_its_own_recipe(tmp_path: Path, environment: dict[str, str]) -> None:
    _write_stand_ins(tmp_path, {"flags_entry.py": _RANK})
    read = _python(tmp_path, _START.format(jobs=1 if environment else 2), **environment)
    assert read[0]["use_ascend_mc2"]
    assert read[0]["use_fused_swiglu"]
    for other in read[1:]:  # a second job of the same launcher, as the cases of one benchmark run are
        assert not other["use_ascend_mc2"]
        assert not other["use_fused_swiglu"]


def test_megatrons_arguments_stay_unset_unless_the_recipe_reuses_fp32_parameters(good: Any) -> None:
    assert good["megatrons"] is None


def test_every_flag_that_a_recipe_decides_changes_with_it() -> None:
    changes = {
        "use-flash-attn": "model.attention_logit_cap=30.0",
        "use-fused-swiglu": "model.activation=geglu",
        **dict.fromkeys(("use-ascend-mc2", "tensor-model-parallel-size", "sequence-parallel"), "kernels.linear=mc2"),
        **dict.fromkeys(
            ("reuse-fp32-param", "use-distributed-optimizer", "use-legacy-models"),
            "training.reuse_fp32_parameters=true",
        ),
    }
    assert changes.keys() == {flag.name for flag in mindspeed_options.MINDSPEED_FLAGS if flag.of}
    plain = mindspeed_options.mindspeed_flags(load_recipe("grok1-nano", ["training.dtype=bf16"]))
    assert plain == mindspeed_options.mindspeed_flags()
    for name, change in changes.items():
        changed = mindspeed_options.mindspeed_flags(load_recipe("grok1-nano", ["training.dtype=bf16", change]))
        assert changed[name] != plain[name], name
        assert change.partition("=")[0] in {f.name: f.decided_by for f in mindspeed_options.MINDSPEED_FLAGS}[name]


@pytest.mark.slow
def test_a_capped_model_asks_for_no_fused_attention(tmp_path: Path) -> None:
    capped = use_npu(tmp_path, recipe=["model.attention_logit_cap=30.0", "model.activation=geglu"])
    assert capped["error"] is None
    assert "--use-flash-attn" not in capped["argv"]
    assert "--use-fused-swiglu" not in capped["argv"]


_WITHOUT_TRAINING = 'raise ModuleNotFoundError("No module named x", name="megatron.training")'
_RENAMED = json.dumps({"options": {name: o for name, o in OPTIONS.items() if name != "use-fused-rmsnorm"}})


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("changes", "ranks", "named", "remedy"),
    [
        pytest.param(
            {name: None for name in STAND_INS if name.startswith("torch_npu")},
            8, "torch_npu", "--device cpu", id="no torch_npu",
        ),
        pytest.param(
            {"torch_npu/__init__.py": "raise OSError('libhccl.so: cannot open')"},
            8, "libhccl.so", "set_env.sh", id="CANN not on the path",
        ),
        pytest.param({}, 9, "8 found on this machine for 9 ranks", "--nproc-per-node", id="too few devices"),
        pytest.param(
            {name: None for name in STAND_INS if name.startswith("mindspeed")},
            8, "MindSpeed", "docs/ascend.md", id="no MindSpeed",
        ),
        pytest.param(
            {"mindspeed/megatron_adaptor.py": None}, 8, "placeholder", "repository", id="placeholder"
        ),
        pytest.param(
            {"mindspeed/megatron_adaptor.py": _WITHOUT_TRAINING},
            8, "megatron.training", "Megatron-LM core_v0.12.1", id="only the megatron-core wheel",
        ),
        pytest.param(
            {"mindspeed/flags.json": _RENAMED}, 8, "--use-fused-rmsnorm", "26.0.0_core_r0.12.1", id="renamed"
        ),
    ],
)  # fmt: skip
def test_a_machine_that_cannot_is_refused_in_one_line_with_the_remedy(
    tmp_path: Path, changes: dict[str, str | None], ranks: int, named: str, remedy: str
) -> None:
    refused = use_npu(tmp_path, changes, ranks=ranks)
    assert refused["error"] is not None, "it was not refused"
    assert named in refused["error"]
    assert remedy in refused["error"]
    assert "\n" not in refused["error"]
    assert refused["words"] == OUR_WORDS


@pytest.mark.slow
def test_mindspeed_imported_too_early_is_refused_for_it_read_our_words(tmp_path: Path) -> None:
    early = use_npu(tmp_path, before="sys.argv = ['grok1']; import mindspeed.megatron_adaptor")
    assert early["error"] is not None
    assert "imported before" in early["error"]


def test_megatron_imported_too_early_is_refused_before_anything_is_patched(tmp_path: Path) -> None:
    late = use_npu(tmp_path, before="import types; sys.modules['megatron.core'] = types.ModuleType('megatron.core')")
    assert late["error"] is not None
    assert "import grok1.megatron.door first" in late["error"]
    assert late["seen"] == []


def test_flags_said_to_be_declared_are_declared_there_and_the_others_are_megatrons() -> None:
    said = {flag.name: flag.declared_in for flag in mindspeed_options.MINDSPEED_FLAGS}
    recorded = {name: OPTIONS[name]["declared_in"] if name in OPTIONS else None for name in said}
    assert said == recorded


def test_flags_mindspeed_does_not_declare_carry_no_number_since_it_keeps_them_as_text() -> None:
    undeclared = [flag for flag in mindspeed_options.MINDSPEED_FLAGS if flag.declared_in is None]
    assert undeclared
    assert all(isinstance(flag.default, bool | str) for flag in undeclared)


def test_the_npu_describes_itself_and_the_software_under_it(tmp_path: Path) -> None:
    _write_stand_ins(tmp_path, {"aarch64-linux/ascend_toolkit_install.info": "package_name=x\nversion=9.0.0\n"})
    script = "import json\nfrom grok1.device import accelerator\nprint(json.dumps(accelerator.describe_device('npu')))"
    about = _python(tmp_path, script, ASCEND_HOME_PATH=str(tmp_path))
    assert about["name"] == "Ascend910B3"
    assert about["memory_bytes"] == 64 * 2**30
    assert (about["cann"], about["torch_npu"]) == ("9.0.0", "2.7.1")
    assert {"driver", "firmware"} <= about.keys()


@pytest.mark.slow
def test_an_older_toolkit_says_its_version_in_version_cfg(tmp_path: Path) -> None:
    _write_stand_ins(tmp_path, {"version.cfg": "# version: 1.0\nruntime_running_version=[7.6.0.1.220:8.0.0]\n"})
    script = "import json\nfrom grok1.device import accelerator\nprint(json.dumps(accelerator.describe_device('npu')))"
    assert _python(tmp_path, script, ASCEND_HOME_PATH=str(tmp_path))["cann"] == "8.0.0"


@pytest.mark.parametrize(("found", "named"), [(0, "no GPU"), (4, "4 found on this machine for 8 ranks")])
def test_cuda_is_refused_where_it_is_absent_or_too_small(
    monkeypatch: pytest.MonkeyPatch, found: int, named: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ValueError, match=named):
        accelerator.use_cuda(local_ranks=8)


def test_the_check_for_a_gpu_leaves_the_process_fit_to_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def poison() -> bool:
        pytest.fail("is_available() was asked: torch's own note says that it poisons fork, device_count() does not")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", poison)
    accelerator.use_cuda(local_ranks=8)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("Ascend910B3", 294.9), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA A800-SXM4-80GB", 312)],
)
def test_a_known_chip_has_the_peak_of_its_data_sheet(name: str, teraflops: float) -> None:
    assert accelerator.peak_flops_per_second(name) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name", ["Ascend910B1", "Ascend910B2C", "Ascend910B4-1", "NVIDIA H800 PCIe", "NVIDIA H100 NVL", "cpu", ""]
)
def test_a_chip_whose_peak_no_source_settles_has_none(name: str) -> None:
    assert accelerator.peak_flops_per_second(name) is None

"""While torch_npu and MindSpeed are imported: collectives are counted whoever binds them, warnings are ignored.

The stand-ins are those of test_accelerator.py, but their NPU computes: it is the CPU. MindSpeed's stand-in imports
megatron.core while it patches, as the real one does, and so binds torch.distributed's functions before we do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grok1.conftest import ROOT
from tests.grok1.device.test_accelerator import _write_stand_ins
from tests.limits import HANG_SECONDS
from tests.lines import ONLY_0_12

_COMPUTES: dict[str, str | None] = {
    "torch_npu/contrib/transfer_to_npu.py": """
        import time, torch
        from grok1.device import cpu
        cpu.use_cpu()
        class Event:
            def __init__(self, enable_timing): ...
            def record(self): self.seconds = time.perf_counter()
            def elapsed_time(self, end): return 1e3 * (end.seconds - self.seconds)
        torch.cuda.Event = Event
    """,
    "mindspeed/megatron_adaptor.py": """
        from mindspeed.args_utils import get_mindspeed_args
        get_mindspeed_args()
        import torch
        import megatron.core.distributed.param_and_grad_buffer
        from megatron.core.tensor_parallel import mappings, random
        random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
        random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    """,
}
_COUNT = """
import functools, json
from grok1.config.load import load_recipe
from grok1.distributed.rank_process import prepare_process
prepare_process()
from grok1.training import assembly, fake_step, planned_routing
# megatron's own optimizer on both devices: on a CPU ours gathers less
fake_step.build_stepper = functools.partial(assembly.build_stepper, stock=True)
recipe = load_recipe("grok1-nano", ["training.dtype=bf16", "model.attention_logit_cap=30"])
with fake_step.fake_rank(recipe, 0, planned_routing.Routing.balanced(8)) as (stepper, _, _):
    collectives = stepper.run(0).collectives
print(json.dumps({name: [each.calls, each.bytes] for name, each in collectives.items()}))
import os, sys
sys.stdout.flush()
os._exit(0)
"""


def _run(script: str, folder: Path, device: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A script in an interpreter of its own, with the stand-ins on its path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        env={"PATH": "", "PYTHONPATH": path, "GROK1_DEVICE": device, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


@pytest.mark.slow
@ONLY_0_12
def test_collectives_that_mindspeed_had_bound_are_counted_all_the_same(tmp_path: Path) -> None:
    _write_stand_ins(tmp_path, _COMPUTES)
    counted = {}
    for device in ("cpu", "npu"):
        done = _run(_COUNT, tmp_path, device)
        assert done.returncode == 0, done.stderr
        counted[device] = json.loads(done.stdout.splitlines()[-1])
    assert counted["npu"] == counted["cpu"]
    assert {"tensor all_gather_into_tensor", "data reduce_scatter_tensor"} <= counted["cpu"].keys()


_WARNS = "import warnings\nwarnings.warn('{0} has another owner')\nwarnings.warn('{0} is old', FutureWarning)\n"


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("module", ["torch_npu/contrib/__init__.py", "mindspeed/__init__.py"])
def test_what_they_warn_of_while_imported_is_no_error(tmp_path: Path, module: str) -> None:
    _write_stand_ins(tmp_path, {module: _WARNS.format(module)})
    script = (
        "import warnings\n"
        "from grok1.device import accelerator, mindspeed_options\n"
        "accelerator.use_npu(mindspeed_options.mindspeed_flags())\n"
        "try: warnings.warn('ours')\n"
        "except UserWarning: print('still an error')"
    )
    done = _run(script, tmp_path, "npu", "-W", "error")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "still an error"


_SAYS_IT_IS_A_BACKEND: dict[str, str | None] = {
    "torch_npu/__init__.py": _WARNS.format("torch_npu") + "def _autoload(): ...\n",
    "torch_npu-2.7.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.7.1\n",
    "torch_npu-2.7.1.dist-info/entry_points.txt": "[torch.backends]\ntorch_npu = torch_npu:_autoload\n",
}


def test_a_rank_imports_torch_without_torch_npu_which_comes_later(tmp_path: Path) -> None:
    _write_stand_ins(tmp_path, _SAYS_IT_IS_A_BACKEND)
    script = (
        "import sys\n"
        "from grok1.distributed.rank_process import prepare_process\n"
        "prepare_process()\n"
        "print('torch' in sys.modules, 'torch_npu' in sys.modules)"
    )
    done = _run(script, tmp_path, "npu", "-W", "error")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False"]


def test_our_settings_of_pytest_let_them_warn(tmp_path: Path) -> None:
    _write_stand_ins(tmp_path, {"mindspeed/__init__.py": _WARNS.format("mindspeed"), **_SAYS_IT_IS_A_BACKEND})
    (tmp_path / "test_it.py").write_text("def test_it():\n    import mindspeed, torch_npu\n", encoding="utf-8")
    run = f"import sys, pytest\nsys.exit(pytest.main(['-c', {str(ROOT / 'pyproject.toml')!r}, '-q', 'test_it.py']))"
    done = _run(run, tmp_path, "npu")
    assert done.returncode == 0, done.stdout + done.stderr

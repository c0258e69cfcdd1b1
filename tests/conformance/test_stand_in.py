"""The stand-in for torch_npu, without MindSpeed: its kernels compute, and it refuses what torch_npu refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]

_TRANSFER = "import warnings; warnings.simplefilter('ignore')\nimport torch, torch_npu\n"
_TRANSFERRED = _TRANSFER + "from torch_npu.contrib import transfer_to_npu\n"
SCRIPTS = {
    "attention of grouped heads in a lower triangle": _TRANSFER
    + """
q, k, v = torch.randn(6, 2, 4 * 8), torch.randn(6, 2, 2 * 8), torch.randn(6, 2, 2 * 8)  # SBH: 4 heads, 2 of keys
mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
out = torch_npu.npu_fusion_attention(q, k, v, 4, "SBH", atten_mask=mask, scale=0.5, sparse_mode=2)[0]
for head in range(4):
    query, key, value = q[:, 0, head * 8 :][:, :8], k[:, 0, head // 2 * 8 :][:, :8], v[:, 0, head // 2 * 8 :][:, :8]
    scores = (query @ key.T * 0.5).masked_fill(mask[:6, :6], float("-inf"))
    torch.testing.assert_close(out[:, 0, head * 8 :][:, :8], scores.softmax(-1) @ value)
""",
    "an uncompressed mask is refused in sparse mode 2": _TRANSFER
    + """
q = torch.randn(6, 2, 8)
try:
    torch_npu.npu_fusion_attention(q, q, q, 1, "SBH", atten_mask=torch.ones(6, 6, dtype=torch.bool), sparse_mode=2)
except RuntimeError as error:
    assert "compressed mask" in str(error)
else:
    raise AssertionError("took it")
""",
    "norm, swiglu and rope": _TRANSFER
    + """
x, weight = torch.randn(5, 8), torch.rand(8)
expected = torch.nn.functional.rms_norm(x, (8,), weight, 1e-5)
torch.testing.assert_close(torch_npu.npu_rms_norm(x, weight, 1e-5)[0], expected)
torch.testing.assert_close(torch_npu.npu_swiglu(x), torch.nn.functional.silu(x[:, :4]) * x[:, 4:])
angle = torch.tensor(0.3)
turned = torch_npu.kernels.rotated(torch.tensor([1.0, 2.0]), angle.cos().expand(2), angle.sin().expand(2), 0)
torch.testing.assert_close(turned, torch.stack([angle.cos() - 2 * angle.sin(), 2 * angle.cos() + angle.sin()]))
""",
    "fused AdamW is torch's": _TRANSFER
    + """
start, grads = torch.randn(9), [torch.randn(9) for _ in range(3)]
theirs = torch.nn.Parameter(start.clone())
optimizer = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2, foreach=False)
ours, average, square = start.clone(), torch.zeros(9), torch.zeros(9)
for step, grad in enumerate(grads, 1):
    theirs.grad = grad.clone()
    optimizer.step()
    torch._fused_adamw_([ours], [grad], [average], [square], [], [torch.tensor(step)], lr=0.1, beta1=0.9, beta2=0.999,
                        weight_decay=0.2, eps=1e-8, amsgrad=False, maximize=False)
torch.testing.assert_close(ours, theirs.detach())
""",
    "grouped products and their gradients": _TRANSFER
    + """
from torch_npu.compiled import GroupedMatmul
x, weight = torch.randn(5, 3).bfloat16(), torch.randn(2, 3, 4).bfloat16()
out = GroupedMatmul.npu_gmm([x], [weight], [], [2, 5], 0, 0)[0]
torch.testing.assert_close(out, torch.cat([x[:2] @ weight[0], x[2:] @ weight[1]]))
to_x, to_weight, _ = GroupedMatmul.npu_gmm_backward([out], [x], [weight], [2, 5], 0)
torch.testing.assert_close(to_x[0], torch.cat([out[:2] @ weight[0].T, out[2:] @ weight[1].T]))
torch.testing.assert_close(to_weight[0], torch.stack([x[:2].T @ out[:2], x[2:].T @ out[2:]]))
""",
    "torch.cuda means it, and it is the CPU": _TRANSFERRED
    + """
made = [torch.zeros(2, device="cuda"), torch.ones(1).cuda(), torch.ones(1).to("npu"), torch.empty(1, device=3)]
assert {each.device.type for each in made} == {"cpu"}
assert all(each.is_cuda for each in made) and torch.ones(1).type() == "torch.npu.FloatTensor"
assert torch.cuda.get_device_name() == "Ascend910B2"
""",
    "events without timing and unrecorded ones are refused": _TRANSFERRED
    + """
for first, second in ((torch.cuda.Event(), torch.cuda.Event()), (torch.cuda.Event(enable_timing=True),) * 2):
    if first is not second:
        first.record(), second.record()
    try:
        first.elapsed_time(second)
    except RuntimeError:
        continue
    raise AssertionError("gave a time")
""",
    "the profiler writes .json alone, and only prints what goes wrong": _TRANSFERRED
    + """
import os, tempfile
with torch.profiler.profile(activities=[*torch_npu.profiler.ProfilerActivity]) as profile:
    torch.ones(3) + 1
folder = tempfile.mkdtemp()
for name in ("trace.json.gz", "trace.json"):
    profile.export_chrome_trace(os.path.join(folder, name))
assert os.listdir(folder) == ["trace.json"] and not hasattr(profile, "events")
""",
}


_DRIVER = """
import json, sys, traceback
said = {}
for name, script in json.load(sys.stdin).items():
    try:
        exec(compile(script, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        said[name] = traceback.format_exc()
print(json.dumps(said), file=sys.__stderr__)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tracebacks by script. Two interpreters run them all: what transfer_to_npu changes stays changed."""
    transferred = {name: script for name, script in SCRIPTS.items() if script.startswith(_TRANSFERRED)}
    others = {name: script for name, script in SCRIPTS.items() if name not in transferred}
    return _failures(others, tmp_path_factory.mktemp("plain")) | _failures(transferred, tmp_path_factory.mktemp("npu"))


def _failures(scripts: dict[str, str], folder: Path) -> dict[str, str]:
    told = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "PYTHONPATH")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "npu_stand_in")])
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        input=json.dumps(scripts),
        env={**told, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, str] = json.loads(done.stderr.splitlines()[-1])
    return said


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_behaves_as_torch_npu_does(name: str, failures: dict[str, str]) -> None:
    assert failures.get(name) is None

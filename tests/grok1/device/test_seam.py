"""The CPU side of the seam: what each patch gives, and that each is still needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grok1.megatron.installed import megatron_core_folder
from tests.grok1.conftest import ROOT, run_python
from tests.lines import LINE

# (megatron file, what it says that makes a patch of grok1/device/cpu.py or grok1/megatron/patches.py needed), by line
NEEDED_BY_ALL = [
    ("jit.py", "jit_fuser = torch.compile"),
    ("tensor_parallel/mappings.py", "device=torch.cuda.current_device()"),
    ("optimizer/optimizer.py", "device='cuda'"),
    ("optimizer/distrib_optimizer.py", "'torch.cuda.FloatTensor'"),
    ("tensor_parallel/random.py", "torch.cuda.default_generators[idx]"),
    ("transformer/moe/moe_utils.py", "if torch.is_tensor(tensor) and tensor.is_cuda:"),
    ("dist_checkpointing/strategies/filesystem_async.py", "ctx.Manager().Queue()"),
    ("transformer/moe/moe_utils.py", "k=expert_capacity, dim=0, sorted=False"),
]
NEEDED_FROM_0_16_ON = [
    ("transformer/moe/token_dispatcher.py", "self.cuda_dtoh_stream.record_event()"),
    ("transformer/moe/router.py", "@jit_fuser\n    def _apply_expert_bias("),
    ("optimizer/distrib_optimizer.py", "tensors[key] = LocalNonpersistentObject(tensors[key])"),
]
NEEDED_BY = {
    "0.12": [
        ("dist_checkpointing/mapping.py", "np.product("),
        ("dist_checkpointing/strategies/filesystem_async.py", "_write_item(*transform_list, stream, data"),
        ("dist_checkpointing/strategies/common.py", "torch.load(load_path, map_location='cpu', weights_only=False)"),
        ("dist_checkpointing/strategies/torch.py", "fsr = CachedMetadataFileSystemReader(checkpoint_dir)"),
        ("dist_checkpointing/strategies/base.py", "async_calls.schedule_async_request(async_request)"),
        ("optimizer/distrib_optimizer.py", "for key in dst_tensors:\n                dst_tensors[key].copy_("),
    ],
    "0.16": [
        *NEEDED_FROM_0_16_ON,
        ("transformer/moe/moe_utils.py", "if te_general_gemm is not None"),
        ("dist_checkpointing/strategies/common.py", "return torch.load(load_path, map_location='cpu')"),
        ("dist_checkpointing/strategies/torch.py", "return CachedMetadataFileSystemReader(checkpoint_dir)"),
        ("optimizer/distrib_optimizer.py", "for key in dst_tensors:\n                dst_tensors[key].copy_("),
    ],
    "0.19": [
        *NEEDED_FROM_0_16_ON,
        ("dist_checkpointing/strategies/filesystem_async.py", "assert isinstance(local_results_or_exc, list), type("),
        ("_rank_utils.py", 'warnings.warn(\n            "Could not determine rank'),
        ("dist_checkpointing/serialization.py", "storage_reader=_get_filesystem_reader(checkpoint_dir), no_dist=True"),
        ("dist_checkpointing/strategies/torch.py", "return FileSystemReader(checkpoint_dir)"),
        ("optimizer/distrib_optimizer.py", "                dst_tensors[key].copy_(tensors[key])"),
    ],
}
NEEDED = [*NEEDED_BY_ALL, *NEEDED_BY[LINE]]


@pytest.mark.parametrize(("file", "text"), NEEDED)
def test_each_patch_is_still_needed_by_megatron(file: str, text: str) -> None:
    folder = megatron_core_folder()
    assert folder is not None
    source = (folder / file).read_text(encoding="utf-8")
    assert text in source, (
        f"{file} changed: look whether its patch in grok1/device/cpu.py or grok1/megatron/patches.py can go"
    )


_RUN_EACH_IN_A_FORK = """
import json, os, sys
from grok1.device import seam, traffic
seam.activate()
import torch
for line in sys.stdin:
    if not os.fork():
        exec(json.loads(line), {"json": json, "seam": seam, "traffic": traffic, "torch": torch})
        sys.stdout.flush()
        os._exit(0)  # gloo aborts now and then where Python takes it apart
    _, status = os.wait()
    print(json.dumps({"status": status}), flush=True)
"""
Ask = Callable[[str], Any]


@pytest.fixture(scope="module")
def in_a_cpu_process() -> Iterator[Ask]:
    """What a script prints last, as JSON. Each runs in a fork, so no other test's process has an active seam."""
    with subprocess.Popen(
        [sys.executable, "-c", _RUN_EACH_IN_A_FORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"GROK1_DEVICE": "cpu", "PATH": "", "OMP_NUM_THREADS": "1"},
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def ask(script: str) -> Any:
            print(json.dumps(script), file=asked, flush=True)
            said: Any = None
            for line in told:
                last, said = said, json.loads(line)
                if isinstance(said, dict) and said.keys() == {"status"}:
                    assert said["status"] == 0
                    return last
            raise AssertionError("the process ended")

        yield ask


def test_torch_cuda_means_the_cpu(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        "made = [torch.zeros(2, device='cuda'), torch.tensor([1], device=torch.cuda.current_device()),"
        " torch.ones(1).cuda(), torch.empty(3, device=torch.device('cuda', 0))]\n"
        "with torch.cuda.stream(torch.cuda.Stream()): torch.cuda.synchronize()\n"
        "print(json.dumps([[t.device.type for t in made], torch.ones(1).type(), torch.ones(1).int().type(),"
        " torch.ones(1).type(torch.float64).dtype == torch.float64]))"
    )
    assert said == [["cpu"] * 4, "torch.cuda.FloatTensor", "torch.cuda.IntTensor", True]


@pytest.mark.slow
def test_activating_twice_patches_once(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        "before = torch.zeros\nseam.activate()\n"
        "print(json.dumps([torch.zeros is before, hasattr(before, '__wrapped__')]))"
    )
    assert said == [True, True]


@pytest.mark.slow
def test_what_megatron_decorates_is_compiled_at_its_first_call(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        "compiled = []\n"
        "def compile(function): compiled.append(function.__name__); return function\n"
        "torch.compile = compile\n"
        "from grok1.megatron import door\n"
        "from megatron.core.transformer.utils import gelu_impl\n"
        "before = list(compiled)\n"
        "values = [gelu_impl(torch.zeros(1)).item() for _ in range(2)]\n"
        "print(json.dumps([before, compiled, values, torch.compile is compile]))"
    )
    assert said == [[], ["gelu_impl"], [0.0, 0.0], True]


@pytest.mark.slow
def test_an_unknown_device_is_refused_by_name() -> None:
    done = run_python("from grok1.device import seam\nseam.activate()", "tpu")
    assert "device 'tpu' is none of cpu, cuda, npu" in done.stderr


def test_importing_megatron_first_is_refused() -> None:
    script = (
        "import sys\nsys.modules['megatron.core'] = sys\nfrom grok1.device import seam\n"
        "try: seam.activate()\nexcept seam.DeviceError as error: print(error)"
    )
    done = run_python(script, "cpu")
    assert "megatron was imported before grok1.device.seam" in done.stdout


# a job whose other rank does not exist
_TWO_RANKS = (
    "import torch.distributed as dist\n"
    "from grok1.device.without_data import init_fake_process_group\n"
    "init_fake_process_group(0, 2)\n"
)


def test_collectives_are_counted_with_their_bytes(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        _TWO_RANKS + "dist.all_reduce(torch.zeros(10))\n"
        "dist.all_gather([torch.zeros(4), torch.zeros(4)], torch.zeros(4))\n"
        "drained = traffic.TRAFFIC.drain({})\n"
        "print(json.dumps([[each.calls, each.bytes, each.seconds > 0] for each in drained.values()]\n"
        " + [list(drained), traffic.TRAFFIC.drain({})]))"
    )
    assert said == [[1, 40, True], [1, 32, True], ["other all_reduce", "other all_gather"], {}]


@pytest.mark.slow
def test_collectives_are_told_apart_by_group_however_it_is_given(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        _TWO_RANKS + "one, two, unnamed = (dist.new_group([0, 1]) for _ in range(3))\n"
        "ten = torch.zeros(10)\n"
        "dist.all_reduce(ten, group=one)\n"
        "dist.all_reduce(ten, dist.ReduceOp.SUM, one)\n"
        "dist.all_reduce(ten, group=two)\n"
        "dist.broadcast(ten, 0, two)\n"
        "dist.all_reduce(ten, group=unnamed)\n"
        "dist.all_reduce(ten)\n"
        "dist.all_reduce(ten, group=dist.group.WORLD)\n"
        "names = {one: 'tensor', two: 'data', None: 'world', dist.group.WORLD: 'world'}\n"
        "before = traffic.TRAFFIC.calls\n"
        "drained = traffic.TRAFFIC.drain(names)\n"
        "print(json.dumps([before, {name: [each.calls, each.bytes] for name, each in drained.items()}]))\n"
    )
    assert said == [
        7,
        {
            "tensor all_reduce": [2, 80],
            "data all_reduce": [1, 40],
            "data broadcast": [1, 40],
            "other all_reduce": [1, 40],
            "world all_reduce": [2, 80],
        },
    ]


_CLOCK = """
import tempfile, torch.distributed as dist
traffic.is_alone = lambda group: False  # the only rank, but its collectives are real
clock = [0.0]
traffic.stamp = lambda: clock[0]
wait = dist.Work.wait
def wait_five(work, *args):
    clock[0] += 5
    return wait(work, *args)
dist.Work.wait = wait_five
folder = tempfile.mkdtemp()
dist.init_process_group('gloo', init_method=f'file://{folder}/r', rank=0, world_size=1)
group = dist.new_group([0])
def drained():
    return [[name, each.calls, each.bytes, each.seconds] for name, each in traffic.TRAFFIC.drain({}).items()]
def gather(async_op):
    return dist.all_gather_into_tensor(torch.zeros(4), torch.zeros(4), group=group, async_op=async_op)
"""


@pytest.mark.slow
def test_a_group_of_one_rank_moves_nothing_and_is_not_counted(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        _TWO_RANKS + "alone = dist.new_group([0])\n"
        "dist.all_reduce(torch.zeros(10), group=alone)\n"
        "dist.all_reduce(torch.zeros(10), group=alone, async_op=True).wait()\n"
        "dist.all_reduce(torch.zeros(10))\n"
        "print(json.dumps({name: each.calls for name, each in traffic.TRAFFIC.drain({alone: 'alone'}).items()}))"
    )
    assert said == {"other all_reduce": 1}


def test_waiting_for_a_collective_is_in_its_seconds_and_in_nothing_else(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        _CLOCK + "work = dist.all_reduce(torch.zeros(10), async_op=True)\n"
        "clock[0] += 100\n"  # what it hides behind
        "work.wait()\n"
        "print(json.dumps([drained(), isinstance(work, dist.Work), work.is_completed()]))"
    )
    assert said == [[["other all_reduce", 1, 40, 5.0]], True, True]


@pytest.mark.slow
def test_coalesced_collectives_take_what_their_end_takes(in_a_cpu_process: Ask) -> None:
    said = in_a_cpu_process(
        _CLOCK + "with dist._coalescing_manager(group): gather(False); gather(False); clock[0] += 100\n"
        "sync = drained()\n"
        "with dist._coalescing_manager(group, async_ops=True) as handle: gather(True); gather(True)\n"
        "clock[0] += 100\n"
        "issued = traffic.TRAFFIC.calls\n"
        "handle.wait()\n"
        "print(json.dumps([sync, issued, drained()]))"
    )
    assert said == [[["other all_gather_into_tensor", 2, 32, 5.0]], 2, [["other all_gather_into_tensor", 2, 32, 5.0]]]


def test_uneven_gathers_and_scatters_work_on_gloo(train: Any) -> None:
    # routing is uneven from the first step, and expert tensor parallelism gathers what the experts got
    result = train(
        1,
        "parallel.world_size=2",
        "parallel.tensor=2",
        "parallel.pipeline=1",
        "parallel.expert=1",
        "parallel.expert_tensor=2",
    )
    assert result.steps[0].loss > 0

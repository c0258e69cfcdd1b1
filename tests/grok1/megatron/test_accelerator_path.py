"""What reaches megatron's objects off the CPU: nothing that only saves work, whatever else has changed them.

There is no accelerator here. Ranks on a CPU build and step as on one: the device's name is another from the start of
the build, and events are the host's clock.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from grok1.config.load import ONE_RANK
from grok1.device.kind import Kind, set_activated_kind
from grok1.megatron import instances
from tests.conftest import MEGATRONS_PARTS
from tests.grok1.conftest import Train, run_python
from tests.lines import ONLY_0_12

ACCELERATORS: tuple[Kind, ...] = ("cuda", "npu")
NUM_STEPS = 3
# data replicas of the dense weights, and experts that each rank has for itself: two optimizers
_REPLICAS = (*ONE_RANK, *MEGATRONS_PARTS, "parallel.world_size=2", "parallel.expert=2", "training.warmup_steps=0")
_EXPERT_REPLICAS = (*_REPLICAS, "parallel.world_size=4")

# Of instances.py, what every device needs: settings, marks, and what only reads. All others are `cpu_only`.
NEEDED_ON_ALL_DEVICES = {
    "connect_schedule",
    "temporary_settings",
    "disable_sequence_parallelism",
    "keep_last_logits_only",
    "set_cached_length",
    "mark_experts_apart",
    "mark_sequence_parallel",
    "mark_gradients_awaited",
    "mark_gradient_added",
    "change_class",
    "await_weights_of_children",
    "update_one_tensor_at_a_time",
    "chained",
}


def not_kept_to_a_cpu(source: str) -> list[str]:
    """Public functions that are neither needed on all devices nor `cpu_only`, or do not say which."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            is_kept = "cpu_only" in map(ast.unparse, node.decorator_list)
            says_so = "CPU only" in (ast.get_docstring(node) or "")
            if is_kept != says_so or is_kept == (node.name in NEEDED_ON_ALL_DEVICES):
                found.append(node.name)
    return found


def test_each_change_of_megatrons_objects_is_needed_everywhere_or_kept_to_a_cpu() -> None:
    assert not_kept_to_a_cpu(Path(instances.__file__).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(config):\n    'All devices.'",
        "def f(config):\n    'CPU only.'",
        "@cpu_only\ndef f(config):\n    'All devices.'",
        "@cpu_only\ndef chained(config):\n    'CPU only.'",
    ],
)
def test_a_change_that_is_neither_is_named(source: str) -> None:
    assert len(not_kept_to_a_cpu(source)) == 1


def test_megatrons_objects_are_as_megatron_makes_them_off_the_cpu(train: Train) -> None:
    found = train(1, *_REPLICAS, entry=f"{__name__}:_replaced_by_kind")
    # torch's AdamW decides by itself on `foreach` (None), which makes temporaries of all weights on an accelerator
    foreach = {kind: each.pop("foreach") for kind, each in found.items()}
    assert foreach == {"megatron's": [None], "cpu": [False], "cuda": [False], "npu": [False]}
    assert {kind: found[kind] for kind in ACCELERATORS} == dict.fromkeys(ACCELERATORS, found["megatron's"])
    # what would be seen: a reduction and a gathering left out, no zeros counted, another step, one gathering for two
    assert found["megatron's"]["replaced"] == ["buffers"]  # megatron's own
    assert found["cpu"]["replaced"] == ["buffers", "count_zeros", "start_grad_sync", "start_param_sync", "step"]
    assert (found["megatron's"]["gathers"], found["cpu"]["gathers"]) == ([1, 1], [0, 1])
    assert (found["megatron's"]["fused"], found["cpu"]["fused"]) == ([False], [True])


def _replaced_by_kind(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """An entry for the launcher: by device, what of megatron's objects is not as their classes have it."""
    from grok1.distributed.groups import joined

    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        found = {"megatron's": _replaced(job.recipe, ranks, stock=True)}
        for kind in ("cpu", *ACCELERATORS):
            with _as_on(kind):
                found[kind] = _replaced(job.recipe, ranks, stock=False)
        return found


def _replaced(recipe: Any, ranks: Any, stock: bool) -> dict[str, Any]:
    from grok1.model.model import build_model
    from grok1.training.optimizer import build_optimizer

    chunks = build_model(recipe, ranks, stock=stock)
    optimizer, _ = build_optimizer(chunks, recipe.training, stock=stock)
    model: Any = chunks[0]
    parts: Any = instances.chained(optimizer)
    inner = [part.optimizer for part in parts]
    objects = [model, *model.bucket_groups, *model.expert_parallel_bucket_groups, optimizer, *parts, *inner]
    settings = [each for one in inner for each in (one.defaults, *one.param_groups)]
    return {
        "replaced": sorted({name for each in objects for name in _shadowing(each)}),
        "gathers": [len(part.model_chunks) for part in parts],
        "fused": list({bool(each["fused"]) for each in settings}),
        "foreach": list({each["foreach"] for each in settings}),
    }


def _shadowing(thing: Any) -> list[str]:
    """Methods of its class that this object has its own of."""
    return [name for name in vars(thing) if inspect.isfunction(getattr(type(thing), name, None))]


_SAY_WHAT_WAS_PATCHED = """
import json
from grok1.device import kind, seam
seam.activate()
kind.set_activated_kind("cuda")
from grok1.megatron import door
from megatron.core.optimizer import distrib_optimizer
from megatron.core.tensor_parallel import random
from megatron.core.transformer import utils
from megatron.core.transformer.moe import moe_utils, token_dispatcher
distrib_optimizer.quantize_param_shard([], [], [], None)  # raises unless patched: no Transformer Engine here
kept = dict(
    generator=random._get_cuda_rng_state.__module__ == random.__name__,
    splits=token_dispatcher.maybe_move_tensor_to_cpu is moe_utils.maybe_move_tensor_to_cpu,
    compiler=hasattr(utils.gelu_impl, "_torchdynamo_orig_callable"),
)
print(json.dumps(kept))
import os, sys
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.slow
def test_modules_of_megatron_keep_on_a_gpu_what_only_a_cpu_replaces() -> None:
    done = run_python(_SAY_WHAT_WAS_PATCHED, "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("generator", "splits", "compiler"), True)


@pytest.mark.slow
@ONLY_0_12
@pytest.mark.parametrize("layout", [_REPLICAS, _EXPERT_REPLICAS], ids=["each expert once", "experts twice"])
def test_replicas_stay_equal_where_each_optimizer_gathers_its_own_kind_only(
    layout: tuple[str, ...], train: Train
) -> None:
    found = train(NUM_STEPS, *layout, entry=f"{__name__}:_train_as_on_an_npu")
    assert found["unequal"] == [[]] * NUM_STEPS
    assert found["dense"] > 0
    assert found["moved"] == found["dense"]


@pytest.mark.slow
@ONLY_0_12
def test_a_gathering_left_out_is_seen_there(train: Train) -> None:
    found = train(NUM_STEPS, *_REPLICAS, entry=f"{__name__}:_train_as_on_a_cpu")
    assert all(len(names) == found["dense"] for names in found["unequal"])


def _train_as_on_an_npu(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """An entry for the launcher: see `_trained`."""
    return _trained(job, where, "npu")


def _train_as_on_a_cpu(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """An entry for the launcher: what a CPU leaves out, where it must not be left out."""
    return _trained(job, where, "cpu")


def _trained(job: Any, where: Any, kind: Kind) -> dict[str, Any]:
    """Some steps; the names of the dense weights that differ between data replicas after each."""
    import torch.distributed as dist

    from grok1.data.batches import Batches
    from grok1.data.samples import training_samples
    from grok1.distributed.groups import joined
    from grok1.training.assembly import build_stepper

    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks, _as_on(kind):
        _gather_own_kind_only()
        dataset = training_samples(recipe, job.data_prefix, job.tokenizer_path)
        stepper = build_stepper(recipe, ranks, Batches(recipe, ranks, dataset))
        dense = {name: each for name, each in stepper.model.named_parameters() if getattr(each, "allreduce", True)}
        before = {name: each.detach().clone() for name, each in dense.items()}
        unequal = []
        for step in range(NUM_STEPS):
            stepper.run(step)
            everyones: list[Any] = [None] * where.world_size
            dist.all_gather_object(everyones, {name: each.detach().numpy().tobytes() for name, each in dense.items()})
            unequal.append([name for name in dense if len({each[name] for each in everyones}) > 1])
        moved = sum(not torch.equal(each, before[name]) for name, each in dense.items())
        return {"unequal": unequal, "dense": len(dense), "moved": moved}


def _gather_own_kind_only() -> None:
    """What MindSpeed does to megatron 0.12: an optimizer, when done, has the weights of its own kind gathered only.

    megatron gathers all weights for each of two optimizers.
    """
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    def start_param_sync(self: Any, *_unused: Any, force_sync: bool = False, kind: str | None = None, **_: Any) -> None:
        groups = {"dense": self.bucket_groups, "experts": self.expert_parallel_bucket_groups}
        for group in groups[kind] if kind else sum(groups.values(), []):
            group.start_param_sync(force_sync=force_sync)

    step = DistributedOptimizer.step_with_ready_grads

    def step_with_ready_grads(self: Any) -> bool:
        kind = "experts" if self.optimizer.param_groups[0]["is_expert_parallel"] else "dense"
        for chunk in self.model_chunks:
            chunk.start_param_sync = functools.partial(chunk.start_param_sync, kind=kind)
        done = bool(step(self))
        for chunk in self.model_chunks:
            chunk.start_param_sync = chunk.start_param_sync.func
        return done

    DistributedDataParallel.start_param_sync = start_param_sync
    DistributedOptimizer.step_with_ready_grads = step_with_ready_grads


class _Event:
    """A point in time, in place of one in a stream."""

    def __init__(self, enable_timing: bool) -> None: ...

    def record(self) -> None:
        """Now."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        """Milliseconds."""
        return (end.seconds - self.seconds) * 1e3


@contextmanager
def _as_on(kind: Kind) -> Iterator[None]:
    """Every question for the device answered with that one; back to the CPU at the end."""
    event: Callable[..., Any] = torch.cuda.Event
    set_activated_kind(kind)
    torch.cuda.Event = _Event  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        set_activated_kind("cpu")
        torch.cuda.Event = event  # type: ignore[assignment,misc]

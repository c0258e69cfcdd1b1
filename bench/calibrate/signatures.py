"""The distinct calls of operators in a rank's step: which operator, with which shapes, strides, types and arguments.

They are found by the dry run, with the ledger's own meter, and are as exact as it: a signature's calls are counted by
phase and component, and sum to the ledger's. An example of each is kept, from which its operands can be made again.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.ledger.count import component
from bench.ledger.extension import extended, extension
from bench.plan.measured_device import CollectiveCalls, OperatorCalls, Shape, StepCounts
from grok1.config.recipe import Recipe
from grok1.config.stages import first_rank_of_stage
from grok1.distributed.launch import rank_context

if TYPE_CHECKING:  # imports torch
    from collections.abc import Iterator

    from bench.ledger.meter import Call, Mark

_MOST_CHARACTERS = 400  # of a signature; longer ones end in a digest of the rest
_MOST_SHOWN = 4  # tensors of a list
_PROCESSES = 2


@dataclass(frozen=True)
class Operand:
    """A tensor of floating-point numbers to be made again: what it is, not what it holds."""

    dtype: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One call of a signature. Among its arguments, `Operand`s stand for tensors of floats; whole numbers are kept."""

    signature: str
    kind: str
    func: Any
    args: Any
    kwargs: Any
    flops: int
    bytes: int
    product: tuple[int, int, int] | None  # rows, columns, depth


def job_shape(recipe: Recipe) -> Shape:
    """What the prediction needs of the job beside its ranks' counts."""
    parallel = recipe.parallel
    return Shape(parallel.world_size, parallel.pipeline, parallel.virtual_pipeline, recipe.num_micro_batches)


def count_steps(recipes: Sequence[Recipe]) -> list[list[StepCounts]]:
    """Of each recipe, what the first rank of each stage does in a step, standing for its stage. Nothing is run."""
    jobs = [
        (recipe, first_rank_of_stage(recipe.parallel, stage), recipe.parallel.world_size // recipe.parallel.pipeline)
        for recipe in recipes
        for stage in range(recipe.parallel.pipeline)
    ]
    if not jobs:
        return []
    context = rank_context("cpu", "grok1.training.fake_step")
    with ProcessPoolExecutor(min(_PROCESSES, len(jobs)), mp_context=context) as pool:
        found = iter(list(pool.map(_count_rank, jobs)))
    return [[next(found) for _ in range(recipe.parallel.pipeline)] for recipe in recipes]


def _count_rank(job: tuple[Recipe, int, int]) -> StepCounts:
    from grok1.distributed.rank_process import prepare_process

    prepare_process()
    recipe, rank, alike = job
    return replace(look(recipe, rank)[0], ranks_alike=alike)


def look(recipe: Recipe, rank: int) -> tuple[StepCounts, dict[str, Example]]:
    """What that rank does in a step, and an example of each signature. In a process that is no rank yet."""
    from bench.ledger.count import _uncollected, step_moments
    from bench.ledger.marked_phases import MarkedPhases
    from grok1.distributed.groups import group_names
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    phases = MarkedPhases()
    meter = _meter(phases)
    routing = Routing.balanced(recipe.model.num_experts)
    with _uncollected(), fake_rank(recipe, rank, routing, phases, meter) as (stepper, batches, ranks):
        sizes = {name: 1 if group is None else group.size() for group, name in group_names().items()}
        sizes["world"] = recipe.parallel.world_size
        step = extension(recipe, ranks.pipeline)
        moments = step_moments(meter, stepper, batches, step)
        calls = extended(step, *(moment.costs for moment in moments))
        moved = extended(step, *(moment.collectives for moment in moments))
        return _step_counts(ranks, meter.examples, calls, moved, sizes), meter.examples


def _step_counts(ranks: Any, examples: dict[str, Example], calls: Any, moved: Any, sizes: dict[str, int]) -> StepCounts:
    operators = tuple(
        OperatorCalls(phase, part, name, examples[name].kind, examples[name].flops, examples[name].bytes, number)
        for (phase, part, name), (number,) in calls.items()
    )
    collectives = tuple(
        CollectiveCalls(phase, group, sizes.get(group, 2), operation, number, num_bytes)
        for (phase, group, operation, _), (number, num_bytes) in moved.items()
    )
    return StepCounts(ranks.rank, ranks.pipeline, 1, operators, collectives)


def _meter(phases: Any) -> Any:
    """A meter that counts by signature; a class made here, because its base imports torch."""
    from bench.ledger.meter import Meter

    class SignatureMeter(Meter):
        def __init__(self) -> None:
            super().__init__(phases)
            self.examples: dict[str, Example] = {}
            self._calls: dict[tuple[str, str, str], int] = defaultdict(int)

        def reset(self) -> None:
            super().reset()
            self._calls.clear()

        def heard(self, call: Call) -> None:
            name = signature(call.func, call.args, call.kwargs)
            self._calls[(call.phase, component(call.module), name)] += 1
            if name not in self.examples:
                self.examples[name] = example_of(name, call)

        def mark(self) -> Mark:
            return replace(super().mark(), costs={key: (calls,) for key, calls in self._calls.items()})

    return SignatureMeter()


# ---- one call ------------------------------------------------------------------------------------------


def signature(func: Any, args: Any, kwargs: Any) -> str:
    """The call in words: `mm(float32[64,192:192,1], float32[192,288:1,192])`. Floats are all alike: they cost alike."""
    words = [_word(each) for each in args] + [f"{name}={_word(value)}" for name, value in sorted(kwargs.items())]
    name = func._schema.name.partition("::")[2]
    overload = f".{func._schema.overload_name}" if func._schema.overload_name else ""
    text = f"{name}{overload}({', '.join(words)})"
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}... {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _word(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"{_name(value.dtype)}[{_commas(value.shape)}:{_commas(value.stride())}]"
    if isinstance(value, float):
        return "float"
    if isinstance(value, list | tuple):
        if len(value) > _MOST_SHOWN and isinstance(value[0], torch.Tensor):
            return f"[{len(value)} {_name(value[0].dtype)} of {sum(each.numel() for each in value)}]"
        return f"[{', '.join(map(_word, value))}]"
    return str(value)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _commas(values: Any) -> str:
    return ",".join(map(str, values))


def example_of(name: str, call: Call) -> Example:
    """The call without its data. Whole numbers stay, for they say which rows are taken."""
    from torch.utils._pytree import tree_map

    from grok1.device.operands import operands

    matrix, vector, read, written = call.figures
    tensors = operands(call.args, call.kwargs)
    return Example(
        name,
        _kind(call.func, tensors, bool(matrix)),
        call.func,
        tree_map(_kept, call.args),
        tree_map(_kept, call.kwargs),
        matrix + vector,
        read + written,
        _product(tensors, matrix),
    )


def _kind(func: Any, tensors: Sequence[Any], is_product: bool) -> str:
    """The operator, the first operand's type, and of products how each operand lies: n by rows, t by columns."""
    name = func._schema.name.partition("::")[2]
    if not tensors:
        return name
    lies = "".join("n" if each.stride()[-1:] in ((1,), ()) else "t" for each in tensors) if is_product else ""
    return f"{name} {_name(tensors[0].dtype)} {lies}".rstrip()


def _product(tensors: Sequence[Any], flops: int) -> tuple[int, int, int] | None:
    """(rows, columns, depth) of the product whose last two operands are matrices and whose FLOPs are of them."""
    matrices = [each for each in tensors if each.dim() == 2]
    for left, right in zip(matrices, matrices[1:], strict=False):
        (rows, depth), (other, columns) = left.shape, right.shape
        if depth == other and flops and 2 * rows * depth * columns == flops:
            return int(rows), int(columns), int(depth)
    return None


def _kept(leaf: Any) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

    if not isinstance(leaf, torch.Tensor):
        return leaf
    if isinstance(leaf, FakeTensor) or leaf.is_floating_point():
        return Operand(leaf.dtype, tuple(leaf.shape), tuple(leaf.stride()))
    with unset_fake_temporarily(), _no_modes():
        return leaf.detach().clone()


@contextmanager
def _no_modes() -> Iterator[None]:
    """Inside, nothing counts."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


def made(leaf: Any, device: Any) -> Any:
    """A tensor for an `Operand`, between a quarter and three quarters; whole numbers go to the device."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return leaf.to(device)
    if not isinstance(leaf, Operand):
        return leaf
    size = 1 + sum((length - 1) * step for length, step in zip(leaf.shape, leaf.stride, strict=True))
    size = max(size, 1) if math.prod(leaf.shape) else 0
    values = torch.rand(size, device=device) * 0.5 + 0.25 if leaf.dtype.is_floating_point else torch.zeros(size)
    return values.to(device=device, dtype=leaf.dtype).as_strided(leaf.shape, leaf.stride)

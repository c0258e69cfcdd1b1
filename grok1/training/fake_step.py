"""The training step of one rank on fake tensors, which have shapes and no content: any job fits on a laptop.

The step is the real one. Floating-point tensors are fake (torch's FakeTensorMode). Integers and booleans are real,
because token ids, routing and split sizes decide shapes. Collectives go to torch's fake process group, which copies a
rank's own input into every other rank's place. That is right where all ranks route alike, as a planned routing does.

Three assumptions about the data follow. Every router sends its tokens as planned. A value that the host reads from a
fake tensor is 2, so losses are finite, and gradients are clipped where the recipe clips below 2. All micro-batches
cost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from grok1.config.recipe import Recipe
from grok1.data.batches import Batch, of_context_rank
from grok1.device.operands import device_asked_for, operands
from grok1.device.without_data import HOST_READS, without_data
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import FAKE_URL, Rendezvous
from grok1.training.assembly import build_stepper
from grok1.training.planned_routing import Routing, RoutingPlan
from grok1.training.remembered_results import RememberedResults
from grok1.training.step import Stepper
from grok1.training.timers import PhaseTimers

Arguments = tuple[Any, ...]  # of an operator, as torch's dispatcher hands them on
KeywordArguments = dict[str, Any]


class FakeBatches:
    """Micro-batches of invented token ids. `num_micro_batches` may be changed between steps."""

    def __init__(self, recipe: Recipe, context_rank: int = 0) -> None:
        self._recipe, self._context_rank = recipe, context_rank
        self.num_micro_batches = recipe.num_micro_batches

    def step(self, _step: int) -> list[Batch]:
        """The same micro-batch, `num_micro_batches` times."""
        training = self._recipe.training
        with unset_fake_temporarily():
            ids = torch.arange(training.sequence_length).expand(training.micro_batch, -1)
            tokens = ids % self._recipe.model.vocab_size
            batch = {"tokens": tokens, "labels": tokens, "position_ids": ids}
            batch = {name: values.to(torch.cuda.current_device()) for name, values in batch.items()}
            batch = of_context_rank(batch, self._recipe.parallel.context, self._context_rank)
        return [batch] * self.num_micro_batches


class Watcher(Protocol):
    """Sees all that a fake rank calls."""

    def over(self, answer: Callable[..., object]) -> AbstractContextManager[object]:
        """A dispatch mode that has calls answered by `answer`, which takes what __torch_dispatch__ does."""


@contextmanager
def fake_rank(
    recipe: Recipe,
    rank: int,
    routing: Routing,
    timers: PhaseTimers | None = None,
    meter: Watcher | None = None,
) -> Iterator[tuple[Stepper, FakeBatches, Ranks]]:
    """Make this process one rank of the recipe's job, ready to step. `meter` sees all that runs, set-up included.

    A process can be one rank at a time.
    """
    world_size = recipe.parallel.world_size
    where = Rendezvous(FAKE_URL, rank, world_size, local_rank=0, ranks_per_node=world_size)
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        step = _FakeStep(fake)
        with without_data(), fake, step if meter is None else meter.over(step.__torch_dispatch__):
            batches = FakeBatches(recipe, ranks.context)
            plan = RoutingPlan(recipe, routing)
            stepper = build_stepper(recipe, ranks, batches, prepare=plan.apply, timers=timers, with_values=False)
            yield stepper, batches, ranks


class _FakeStep(TorchDispatchMode):
    """Keeps integers and booleans real, sends collectives to the fake group, and answers data-dependent questions.

    What else `fake` would compute again, it remembers.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._results = RememberedResults(fake)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch wraps each call so that no compiler sees it. None compiles a step without data."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: KeywordArguments | None = None
    ) -> object:
        kwargs = kwargs or {}
        device = device_asked_for(func, args)
        if device is not None:
            return device
        tensors = operands(args, kwargs)
        is_fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if func.namespace == "c10d" and is_fake:
            return _shapeless_collective(func, args, kwargs)
        if func is torch.ops.aten._local_scalar_dense.default and is_fake:
            return HOST_READS
        if func is torch.ops.aten.masked_select.default and is_fake and not isinstance(args[1], FakeTensor):
            with unset_fake_temporarily():
                chosen = int(args[1].sum())
            return args[0].new_empty(chosen)
        if func is torch.ops.aten.triu.default:
            return self._results.call(func, args, kwargs)  # attention's mask, large, and no shape follows from it
        if not is_fake and (_are_whole_numbers(tensors) or (not tensors and _makes_whole_numbers(func, args, kwargs))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return self._results.call(func, args, kwargs)


def _are_whole_numbers(tensors: Sequence[Tensor]) -> bool:
    return bool(tensors) and not any(tensor.is_floating_point() for tensor in tensors)


def _makes_whole_numbers(func: OpOverload, args: Arguments, kwargs: KeywordArguments) -> bool:
    """Whether a factory returns integers or booleans, as arange does by default."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        return func._schema.name == "aten::arange" and all(isinstance(each, int) for each in args)
    return not dtype.is_floating_point and not dtype.is_complex


def _shapeless_collective(func: OpOverload, args: Arguments, kwargs: KeywordArguments) -> object:
    """Ask the fake group with empty tensors in place of fake ones: its answer has the right type."""

    def stand_in(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if "alltoall" not in func._schema.name:
            return torch.empty(0)
        return torch.empty(leaf.shape[0], 0) if leaf.dim() > 1 else torch.empty(leaf.shape[0])  # splits are checked

    with unset_fake_temporarily():
        return func(*tree_map(stand_in, args), **tree_map(stand_in, kwargs))

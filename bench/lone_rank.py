"""One rank of a job with real tensors, alone: what its own work takes, without waiting for anybody.

Its collectives go to torch's fake process group, which returns at once and copies what the rank itself holds. So the
numbers mean nothing, but every kernel runs on tensors of the right shape, and its time is real. Experts get equal
shares of the tokens. A step of M micro-batches takes a + b M: two numbers of micro-batches, in turns, give both.
What is left out is all communication, and the wait for other stages: the job cannot be faster than this.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.stages import micro_batch_group
from grok1.device.kind import Kind
from grok1.distributed.launch import LaunchError, check_machine, launch
from grok1.distributed.rendezvous import FAKE_URL, Rendezvous

_MORE = 2  # groups of micro-batches that the larger step has more


@dataclass(frozen=True)
class LoneJob:
    """Which rank of which job, and how many rounds of the two steps."""

    recipe: Recipe
    rank: int
    rounds: int


@dataclass(frozen=True)
class LoneRank:
    """Seconds by number of micro-batches, one a round; the first round, which warms up, is left out."""

    rank: int
    stage: int
    seconds: dict[int, list[float]]
    peak_bytes: int
    device_name: str

    @property
    def micro_batch_seconds(self) -> float:
        """What one more micro-batch takes: the median over the rounds."""
        few, many = sorted(self.seconds)
        differences = [more - less for less, more in zip(self.seconds[few], self.seconds[many], strict=True)]
        return statistics.median(differences) / (many - few)

    @property
    def fixed_seconds(self) -> float:
        """What a step takes beside its micro-batches: optimizer, buffers, report."""
        few = min(self.seconds)
        return max(0.0, statistics.median(self.seconds[few]) - few * self.micro_batch_seconds)

    def step_seconds(self, recipe: Recipe) -> float:
        """The least that a step of the whole job takes: its micro-batches, those that fill the pipeline, the rest."""
        parallel = recipe.parallel
        passes = recipe.num_micro_batches + (parallel.pipeline - 1) / parallel.virtual_pipeline
        return self.fixed_seconds + passes * self.micro_batch_seconds


def measure(recipe: Recipe, rank: int, device: Kind, rounds: int) -> LoneRank:
    """Run that rank on this machine's first device.

    Raises:
        LaunchError, DeviceError: there is no such rank, or it does not fit this device.
    """
    if not 0 <= rank < recipe.parallel.world_size:
        raise LaunchError(f"--rank {rank}: the recipe has ranks 0 to {recipe.parallel.world_size - 1}")
    if device == "npu":
        raise LaunchError("--device npu: torch's fake process group does not take an NPU's tensors; use cuda or cpu")
    check_machine(recipe, device, 1)
    starter = load_recipe("grok1-nano", [*ONE_RANK, "training.global_batch=1"])  # one process, whatever the job has
    job = LoneJob(recipe, rank, rounds)
    found: LoneRank = launch(job, starter, device, entry="bench.lone_rank:run_rank")
    return found


def run_rank(job: LoneJob, where: Rendezvous, _emit: Callable[[object], None]) -> LoneRank:
    """In a process of its own."""
    from grok1.device import measuring
    from grok1.distributed.groups import joined
    from grok1.training.assembly import build_stepper
    from grok1.training.fake_step import FakeBatches, Routing, plan_routing

    recipe = job.recipe
    alone = replace(where, url=FAKE_URL, rank=job.rank, world_size=recipe.parallel.world_size)
    with joined(alone, recipe.parallel, recipe.training.seed) as ranks:
        batches = FakeBatches(recipe, ranks.context)
        plan = functools.partial(plan_routing, recipe=recipe, routing=Routing.balanced(recipe.model.num_experts))
        stepper = build_stepper(recipe, ranks, batches, prepare=plan)
        group = micro_batch_group(recipe.parallel)
        few = recipe.parallel.pipeline + group
        seconds: dict[int, list[float]] = {few: [], few + _MORE * group: []}
        for step in range(job.rounds + 1):
            for count, taken in seconds.items():
                batches.num_micro_batches = count
                taken.append(stepper.run(step).seconds)
        warm = {count: taken[1:] for count, taken in seconds.items()}
        name = measuring.describe().name
        return LoneRank(ranks.rank, ranks.pipeline, warm, measuring.peak_bytes()[0], name)


def text(found: LoneRank, recipe: Recipe) -> str:
    """For a terminal."""
    step, parallel = found.step_seconds(recipe), recipe.parallel
    rate = recipe.tokens_per_step / step / parallel.world_size
    return (
        f"rank {found.rank} of {recipe.name} (stage {found.stage}), alone on {found.device_name}: "
        f"{found.micro_batch_seconds:.4g} s a micro-batch, {found.fixed_seconds:.4g} s a step beside them, peak "
        f"{found.peak_bytes / 2**30:.2f} GiB\n"
        f"a step of {recipe.num_micro_batches} micro-batches on {parallel.pipeline} stages takes {step:.4g} s or more: "
        f"at most {rate:,.1f} tokens/s/p: no communication is in it, and its numbers mean nothing"
    )


def as_json(found: LoneRank, recipe: Recipe) -> dict[str, object]:
    """As `--json` writes it."""
    return {
        "schema": 1,
        "recipe": {"name": recipe.name, "hash": recipe.hash()},
        **asdict(found),
        "micro_batch_seconds": found.micro_batch_seconds,
        "fixed_seconds": found.fixed_seconds,
        "least_step_seconds": found.step_seconds(recipe),
    }

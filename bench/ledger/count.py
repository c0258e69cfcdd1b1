"""Counts a recipe's ledger: runs its training step on chosen ranks of the full-size job, on tensors without data.

A short step gives a whole one exactly: bench.ledger.extension.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.ledger.alike import coordinates
from bench.ledger.extension import Extension, Figures, extended, extension
from bench.ledger.schema import CollectiveRow, CostRow, Ledger, Memory, Parameters, RankLedger, TimelinePoint
from grok1.config.recipe import Recipe
from grok1.config.stages import first_rank_of_stage
from grok1.distributed.launch import rank_context

if TYPE_CHECKING:  # imports torch
    from grok1.training.fake_step import FakeBatches

_PROCESSES = 2
_TIMELINE_POINTS = 200
_PACKAGES = ("torch", "megatron-core")  # what can move a ledger beside our own code

# innermost match wins; what is outside the model is the schedule's, the optimizer's or the report's
_COMPONENTS = (
    (r"embedding", "embedding"),
    (r"output_layer", "head"),
    (r"core_attention", "attention core"),
    (r"self_attention", "attention projections"),
    (r"router", "router"),
    (r"experts", "experts"),
    (r"\.mlp", "dispatch"),
    (r"layernorm", "norms"),
    (r"decoder", "residual"),
)


def count(recipe: Recipe, ranks: Sequence[int] | None = None, shares: Sequence[float] | None = None) -> Ledger:
    """The ledger of a recipe on `ranks`, by default the first of each pipeline stage, which stands for its stage.

    Raises:
        ValueError: a rank is not one of the recipe's, the routing is impossible, or a kernel cannot be counted.
    """
    for choice, remedy in recipe.kernels.of_transformer_engine():
        raise ValueError(f"{choice}: a ledger counts torch's operators, and Transformer Engine's are none; {remedy}")
    stages, per_stage = recipe.parallel.pipeline, recipe.parallel.world_size // recipe.parallel.pipeline
    chosen = (
        [first_rank_of_stage(recipe.parallel, stage) for stage in range(stages)]
        if ranks is None
        else sorted(set(ranks))
    )
    unknown = [rank for rank in chosen if not 0 <= rank < recipe.parallel.world_size]
    if unknown or not chosen:
        raise ValueError(f"--ranks {unknown or 'none'}: the recipe has ranks 0 to {recipe.parallel.world_size - 1}")
    experts = recipe.model.num_experts
    routing = tuple(shares) if shares is not None else (1.0 / experts,) * experts
    if len(routing) != experts or abs(sum(routing) - 1.0) > 1e-6:
        raise ValueError(
            f"--routing has {len(routing)} shares that sum to {sum(routing):g}, not {experts} that sum to 1"
        )
    results = _count_ranks(recipe, chosen, routing, per_stage if ranks is None else 1)
    unknown_operators: dict[str, int] = {}
    for _, names, _ in results:
        for name, calls in names.items():
            unknown_operators[name] = unknown_operators.get(name, 0) + calls
    return Ledger(
        schema=1,
        recipe_name=recipe.name,
        recipe_hash=recipe.hash(),
        software=results[0][2],
        routing_shares=list(routing),
        num_micro_batches=recipe.num_micro_batches,
        ranks=[rank for rank, _, _ in results],
        unknown_operators=dict(sorted(unknown_operators.items())),
    )


def _count_ranks(
    recipe: Recipe, ranks: Sequence[int], routing: tuple[float, ...], alike: int
) -> list[tuple[RankLedger, dict[str, int], dict[str, str]]]:
    """Each rank's count; of ranks that count alike, the first is counted."""
    kinds = [coordinates(recipe.parallel, rank, len(set(routing)) == 1) for rank in ranks]
    jobs: dict[tuple[int, ...], tuple[Recipe, int, tuple[float, ...], int]] = {}
    for kind, rank in zip(kinds, ranks, strict=True):
        jobs.setdefault(kind, (recipe, rank, routing, alike))
    with ProcessPoolExecutor(
        min(_PROCESSES, len(jobs)), mp_context=rank_context("cpu", "grok1.training.fake_step")
    ) as pool:
        counted = dict(zip(jobs, pool.map(_count_rank, jobs.values()), strict=True))
    return [
        (counted[kind][0].model_copy(update={"rank": rank}), *counted[kind][1:])
        for kind, rank in zip(kinds, ranks, strict=True)
    ]


def _count_rank(job: tuple[Recipe, int, tuple[float, ...], int]) -> tuple[RankLedger, dict[str, int], dict[str, str]]:
    recipe, rank, routing, alike = job
    # here, in a process that the forkserver made, which has them already
    from bench.ledger.marked_phases import MarkedPhases
    from bench.ledger.meter import Meter
    from grok1.device import software
    from grok1.distributed.rank_process import prepare_process
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    prepare_process()
    phases = MarkedPhases()
    meter = Meter(phases)
    with _uncollected(), fake_rank(recipe, rank, Routing(routing), phases, meter) as (stepper, batches, where):
        ledger = rank_ledger(meter, stepper, batches, where, alike, extension(recipe, where.pipeline))
    versions = {name: version.partition("+")[0] for name, version in software.versions(_PACKAGES, False).items()}
    return ledger, dict(meter.counts.unknown), versions


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python look for no cycles meanwhile, which takes a sixth of a count; there are none that hold tensors.

    And at the end only among what was made meanwhile: all that was imported takes as long to go through as a count.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()


def rank_ledger(meter: Any, stepper: Any, batches: FakeBatches, ranks: Any, alike: int, step: Extension) -> RankLedger:
    """The ledger of a rank whose stepper was built under the meter: the step that `step` runs, extended by it."""
    moments = step_moments(meter, stepper, batches, step)
    _, early, late, _ = moments
    return RankLedger(
        rank=ranks.rank,
        stage=ranks.pipeline,
        ranks_alike=alike,
        parameters=_parameters(stepper.model),
        costs=_cost_rows(extended(step, *(moment.costs for moment in moments))),
        collectives=_collective_rows(extended(step, *(moment.collectives for moment in moments))),
        memory=_memory(meter, _more_alive(early, late, step)),
        timeline=_timeline(meter.counts.timeline),
    )


def step_moments(meter: Any, stepper: Any, batches: FakeBatches, step: Extension) -> tuple[Any, Any, Any, Any]:
    """What a short step took, and what had been taken at three moments of the one that gives a whole step."""
    for chunk in stepper.model:
        meter.watch(chunk)
    short = settle(meter, stepper, batches, step.group)
    ran = _run(meter, stepper, batches, step.run)
    early, late = meter.counts.forwards[-1 - step.forwards_a_group * bool(step.more)], meter.counts.forwards[-1]
    return short, early, late, ran


def _run(meter: Any, stepper: Any, batches: FakeBatches, num_micro_batches: int) -> Any:
    """What a step of so many micro-batches took, alone."""
    meter.reset()
    batches.num_micro_batches = num_micro_batches
    stepper.run(0)
    return meter.mark()


def settle(meter: Any, stepper: Any, batches: FakeBatches, group: int) -> Any:
    """One step that makes what stays: then say what is what, so that the rest is a step's own. What that step took."""
    took = _run(meter, stepper, batches, group)
    model = stepper.model
    meter.rename_all("optimizer")
    meter.classify((parameter.data for parameter in model.parameters()), "weights")
    meter.classify((buffer.grad_data for buffer in model.gradient_buffers), "gradients")
    return took


def component(module: str) -> str:
    """The part of the model that a module's path lies in."""
    for pattern, name in _COMPONENTS:
        if re.search(pattern, module):
            return name
    return "outside the model"


def _parameters(model: Any) -> Parameters:
    sizes = {"dense": 0, "expert": 0, "embedding": 0}
    for name, parameter in model.named_parameters():
        is_end = "word_embeddings" in name or "output_layer" in name
        sizes["expert" if ".experts." in name else "embedding" if is_end else "dense"] += parameter.numel()
    return Parameters(**sizes)


def _cost_rows(figures: Figures) -> list[CostRow]:
    rows: dict[tuple[str, str], tuple[int, ...]] = {}
    for (phase, module), values in figures.items():
        key = phase, component(module)
        rows[key] = tuple(map(sum, zip(rows.get(key, (0,) * len(values)), values, strict=True)))
    return [
        CostRow(
            phase=phase,
            component=name,
            operator_calls=row[0],
            matrix_flops=row[1],
            vector_flops=row[2],
            bytes_read=row[3],
            bytes_written=row[4],
        )
        for (phase, name), row in sorted(rows.items())
    ]


def _collective_rows(figures: Figures) -> list[CollectiveRow]:
    return [
        CollectiveRow(phase=phase, group=group, operation=operation, dtype=dtype, calls=calls, bytes=num_bytes)
        for (phase, group, operation, dtype), (calls, num_bytes) in sorted(figures.items())
    ]


def _more_alive(early: Any, late: Any, step: Extension) -> dict[str, int]:
    """Bytes by kind that further micro-batches keep until the step's end, as the last stage does a loss of each."""
    kinds = {*early.alive, *late.alive}
    return {kind: step.more_in_memory * (late.alive.get(kind, 0) - early.alive.get(kind, 0)) for kind in kinds}


def _memory(meter: Any, more: Mapping[str, int]) -> Memory:
    counts, kinds = meter.counts, ("weights", "gradients", "optimizer")
    split = {kind: counts.peak_split.get(kind, 0) + more.get(kind, 0) for kind in {*counts.peak_split, *more}}
    return Memory(
        peak_bytes=counts.peak_bytes + sum(more.values()),
        peak_phase=counts.peak_at[0],
        peak_component=component(counts.peak_at[1]),
        activations_bytes=split.get("activations", 0),
        temporary_bytes=split.get("temporary", 0),
        static_bytes=sum(meter.live_bytes(kind) for kind in kinds),
        **{f"{kind}_bytes": split.get(kind, 0) for kind in kinds},
    )


def _timeline(points: Sequence[tuple[str, str, int]]) -> list[TimelinePoint]:
    """At most 200 stretches of equally many module changes, each with its highest point."""
    size = -(-len(points) // _TIMELINE_POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    highest = [max(stretch, key=lambda point: point[2]) for stretch in stretches]
    return [TimelinePoint(phase=phase, component=component(module), bytes=live) for phase, module, live in highest]

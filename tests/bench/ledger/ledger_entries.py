"""A rank's ledger counted without extrapolating, as an entry for a pool of processes."""

from __future__ import annotations

from typing import Any

from bench.ledger.count import rank_ledger
from bench.ledger.extension import run_in_full
from bench.ledger.schema import RankLedger
from grok1.config.recipe import Recipe
from grok1.config.stages import micro_batch_group


def counted_directly(job: tuple[Recipe, int]) -> RankLedger:
    """(recipe, rank): a step of all the recipe's micro-batches, each of which ran; balanced routing."""
    # here, in a process that the forkserver made: the test's own must not import torch or megatron
    from bench.ledger.marked_phases import MarkedPhases
    from bench.ledger.meter import Meter
    from grok1.distributed.rank_process import prepare_process
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    recipe, rank = job
    prepare_process()
    phases = MarkedPhases()
    meter = Meter(phases)
    routing = Routing.balanced(recipe.model.num_experts)
    with fake_rank(recipe, rank, routing, phases, meter) as (stepper, batches, ranks):
        whole = run_in_full(recipe.num_micro_batches, micro_batch_group(recipe.parallel))
        return rank_ledger(meter, stepper, batches, ranks, 1, whole)


def first_step_and_ledger(recipe: Recipe) -> tuple[int, int, RankLedger]:
    """Rank 0's most bytes in its very first step, its bytes after that, and its ledger.

    The optimizer makes its moments in that step, after the backward.
    """
    from bench.ledger.marked_phases import MarkedPhases
    from bench.ledger.meter import Meter
    from grok1.distributed.rank_process import prepare_process
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    prepare_process()
    phases = MarkedPhases()
    meter = Meter(phases)
    routing = Routing.balanced(recipe.model.num_experts)
    with fake_rank(recipe, 0, routing, phases, meter) as (stepper, batches, ranks):
        meter.reset()
        batches.num_micro_batches = 1
        stepper.run(0)
        peak_bytes, after_bytes = meter.counts.peak_bytes, meter.bytes_alive
        return peak_bytes, after_bytes, rank_ledger(meter, stepper, batches, ranks, 1, run_in_full(2))


def cost_of_a_singular_value_decomposition(_job: None) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """(operators without a formula, (phase, calls, matrix FLOPs) of all else) of one such and one matrix product."""
    import torch

    from bench.ledger.marked_phases import MarkedPhases
    from bench.ledger.meter import Meter
    from grok1.config.load import load_recipe
    from grok1.distributed.rank_process import prepare_process
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    prepare_process()
    recipe, phases = load_recipe("grok1-nano"), MarkedPhases()
    meter = Meter(phases)
    with fake_rank(recipe, 0, Routing.balanced(recipe.model.num_experts), phases, meter):
        matrix = torch.empty(4, 4)
        meter.reset()
        with phases.phase("optimizer"):
            torch.linalg.svd(matrix @ matrix)
        rows = [(phase, cost.calls, cost.matrix_flops) for (phase, _), cost in meter.counts.costs.items()]
        return dict(meter.counts.unknown), rows


def flops_of_activations_with_room(_job: None) -> dict[str, tuple[int, int] | None]:
    """(matrix, vector) FLOPs of each activation, and of its gradient, that is written to a tensor at hand."""
    import torch

    from bench.ledger import operators

    x, aten = torch.empty(3, 4), torch.ops.aten
    calls = (aten.gelu.out, aten.silu.out, aten.gelu_backward.grad_input, aten.silu_backward.grad_input)
    return {str(each): operators.flops(each, operators.kind_of(each).name, (x,), {}, [x], [x], x) for each in calls}


def bytes_of_a_fused_update(is_scaled: bool) -> tuple[int, int]:
    """(read, written) by torch's fused AdamW over four values, its gradient scaled on the way or not."""
    import torch

    from bench.ledger.marked_phases import MarkedPhases
    from bench.ledger.meter import Meter
    from grok1.config.load import load_recipe
    from grok1.distributed.rank_process import prepare_process
    from grok1.training.fake_step import fake_rank
    from grok1.training.planned_routing import Routing

    prepare_process()
    recipe, phases = load_recipe("grok1-nano"), MarkedPhases()
    meter = Meter(phases)
    with fake_rank(recipe, 0, Routing.balanced(recipe.model.num_experts), phases, meter):
        weight, gradient, first, second = (torch.zeros(4) for _ in range(4))
        scale = torch.zeros(()) if is_scaled else None
        lists: Any = ([weight], [gradient], [first], [second], [], [torch.ones(())])
        meter.reset()
        torch._fused_adamw_(*lists, **_SETTINGS, grad_scale=scale)
        (cost,) = meter.counts.costs.values()
        return cost.bytes_read, cost.bytes_written


_SETTINGS: dict[str, Any] = {
    "lr": 1.0,
    "beta1": 0.9,
    "beta2": 0.9,
    "weight_decay": 0.0,
    "eps": 1.0,
    "amsgrad": False,
    "maximize": False,
}

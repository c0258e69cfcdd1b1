"""The optimizer's step on a CPU: beside megatron's own, and its fused AdamW beside torch's plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grok1.config.load import ONE_RANK
from tests.grok1.conftest import Train
from tests.lines import SUMS_OF_A_STEP

NUM_STEPS = 5
LEARNING_RATE, WEIGHT_DECAY = 0.01, 0.5  # five steps decay a weight by 2.5 % of itself: far above rounding


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_fused_updates_are_the_plain_ones_to_rounding(dtype: str, train: Train) -> None:
    settings = (f"training.{key}={value}" for key, value in _SETTINGS.items())
    found = train(1, *ONE_RANK, f"training.dtype={dtype}", *settings, entry=f"{__name__}:_fused_beside_plain")
    assert found["chosen"] == [(True, False)] * len(found["chosen"])
    assert len(found["chosen"]) == 3  # the defaults, and the groups with and without weight decay
    assert set(found["decays"]) == {0.0, WEIGHT_DECAY}
    assert found["dtypes"] == ["torch.float32"]
    assert found["steps"] == [NUM_STEPS]
    assert 0.0 < found["weights"] < 1e-6  # of the largest weight: the other kernel ran, and computed the same
    assert found["moments"] < 1e-6
    assert found["moved"] > 1e-2


_SETTINGS = {
    "learning_rate": LEARNING_RATE,
    "min_learning_rate": LEARNING_RATE,
    "warmup_steps": 0,
    "weight_decay": WEIGHT_DECAY,
}


def _fused_beside_plain(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """An entry for the launcher: what was chosen, and by how much each kind of tensor differs after the steps.

    Differences are the largest over all tensors, each over the tensor's largest value.
    """
    from grok1.distributed.groups import joined

    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        untouched, _ = _stepped(job.recipe, ranks, fused=True, num_steps=0)
        fused, parts = _stepped(job.recipe, ranks, fused=True, num_steps=NUM_STEPS)
        plain, _ = _stepped(job.recipe, ranks, fused=False, num_steps=NUM_STEPS)
        groups = [group for part in parts for group in part.param_groups]
        settings = [*(part.defaults for part in parts), *groups]
        states = [state for part in parts for state in part.state.values()]
        return {
            "chosen": [(each["fused"], each["foreach"]) for each in settings],
            "decays": [group["weight_decay"] for group in groups],
            "dtypes": sorted({str(each.dtype) for each in fused["weights"]}),
            "steps": sorted({int(state["step"]) for state in states}),
            "moved": _difference(fused["weights"], untouched["weights"]),
            **{kind: _difference(fused[kind], plain[kind]) for kind in plain},
        }


def _stepped(recipe: Any, ranks: Any, fused: bool, num_steps: int) -> tuple[dict[str, list[torch.Tensor]], list[Any]]:
    """Weights and moments after some steps on random gradients, and torch's optimizers."""
    from grok1.megatron.instances import chained
    from grok1.model.model import build_model
    from grok1.training.optimizer import build_optimizer

    model: Any = build_model(recipe, ranks)
    optimizer, scheduler = build_optimizer(model, recipe.training)
    parts = [each.optimizer for each in chained(optimizer)]
    step = optimizer.step if fused else type(optimizer).step.__get__(optimizer)
    for group in [group for part in parts for group in part.param_groups]:
        group["fused"] = group["fused"] and fused
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for parameter in model.parameters():
            parameter.main_grad.copy_(torch.randn(parameter.shape, generator=generator))
        _, _, num_zeros = step()
        assert num_zeros is None  # megatron's own step, which other devices take, counts none either
        scheduler.step(increment=1)
    states = [(each, part.state[each]) for part in parts for group in part.param_groups for each in group["params"]]
    moments = [state[name] for _, state in states for name in ("exp_avg", "exp_avg_sq") if state]
    return {"weights": [weight.detach().clone() for weight, _ in states], "moments": moments}, parts


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["one rank", "each expert once", "experts twice"])
def test_a_step_is_megatrons_to_the_last_bit(layout: str, dtype: str, train: Train) -> None:
    found = train(NUM_STEPS, *_LAYOUTS[layout], *_CLIPPED["never"], f"training.dtype={dtype}", entry=_BESIDE_MEGATRON)
    assert found["ours"]["results"] == found["megatron's"]["results"]  # losses and norms of each rank's steps
    assert found["differences"] == [[0.0, 0.0]] * _NUM_RANKS[layout]
    assert min(found["moved"]) > 1e-2


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("layout", ["one rank", "experts twice"])
def test_a_clipped_step_is_megatrons_to_rounding(layout: str, train: Train) -> None:
    found = train(NUM_STEPS, *_LAYOUTS[layout], *_CLIPPED["always"], entry=_BESIDE_MEGATRON)
    ours, theirs = (torch.tensor(found[side]["results"], dtype=torch.float64) for side in ("ours", "megatron's"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)
    assert ours[..., 1].min() > 2 * CLIP_AT  # so every step is clipped
    assert 0.0 < max(map(max, found["differences"])) < 1e-4  # weights, and the gradients that the step leaves
    assert max(found["largest"]) < CLIP_AT
    assert min(found["moved"]) > 1e-2


@pytest.mark.slow
def test_a_step_has_no_collective_for_nothing(train: Train) -> None:
    """By layout: how often weights and gradients are exchanged in a step, and what the whole job sums."""
    changes = {layout: (*each, "training.clip_grad=0") for layout, each in _LAYOUTS.items()}
    found = {layout: train(1, *each, entry=_BESIDE_MEGATRON) for layout, each in changes.items()}
    ours, theirs = (
        {layout: {name: each[side]["calls"].get(name, 0) for name in _EXCHANGES} for layout, each in found.items()}
        for side in ("ours", "megatron's")
    )
    # the norm, the two losses; megatron's own gathers for each of two optimizers
    assert ours == {
        "one rank": dict.fromkeys(_EXCHANGES, 0) | {"world all_reduce": 2},
        "each expert once": dict(zip(_EXCHANGES, (2, 1, 1, 0, 0), strict=True)),
        "experts twice": dict(zip(_EXCHANGES, (2, 1, 1, 1, 1), strict=True)),
    }
    assert theirs == {
        "one rank": dict(zip(_EXCHANGES, (SUMS_OF_A_STEP, 1, 1, 0, 0), strict=True)),
        "each expert once": dict(zip(_EXCHANGES, (SUMS_OF_A_STEP, 1, 2, 1, 2), strict=True)),
        "experts twice": dict(zip(_EXCHANGES, (SUMS_OF_A_STEP, 1, 2, 1, 2), strict=True)),
    }


CLIP_AT = 0.01
_CLIPPED = {"never": ("training.clip_grad=1000",), "always": (f"training.clip_grad={CLIP_AT}",)}
_NUM_RANKS = {"one rank": 1, "each expert once": 2, "experts twice": 4}
_LAYOUTS = {
    "one rank": ONE_RANK,
    "each expert once": (*ONE_RANK, "parallel.world_size=2", "parallel.expert=2"),
    "experts twice": (*ONE_RANK, "parallel.world_size=4", "parallel.expert=2"),
}
_EXCHANGES = (
    "world all_reduce",
    "data reduce_scatter_tensor",
    "data all_gather_into_tensor",
    "expert-data reduce_scatter_tensor",
    "expert-data all_gather_into_tensor",
)
_BESIDE_MEGATRON = f"{__name__}:_ours_beside_megatrons"


def _ours_beside_megatrons(job: Any, where: Any, _emit: Any) -> dict[str, Any] | None:
    """An entry for the launcher: some steps of each kind from the same weights, on each rank; on rank 0."""
    import torch.distributed as dist

    from grok1.distributed.groups import joined

    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        ours, megatrons = (_trained(job, ranks, is_ours) for is_ours in (True, False))
        untouched = _trained(job, ranks, is_ours=True, num_steps=0)
        mine = {
            "results": (ours["results"], megatrons["results"]),
            "differences": [_difference(ours[kind], megatrons[kind]) for kind in ("weights", "gradients")],
            "largest": max(float(each.abs().max()) for each in ours["gradients"]),
            "moved": _difference(ours["weights"], untouched["weights"]),
        }
        gathered: list[Any] | None = [None] * where.world_size if ranks.rank == 0 else None
        dist.gather_object(mine, gathered)
        if gathered is None:
            return None
        return {
            "ours": {"results": [each["results"][0] for each in gathered], "calls": ours["calls"]},
            "megatron's": {"results": [each["results"][1] for each in gathered], "calls": megatrons["calls"]},
            **{name: [each[name] for each in gathered] for name in ("differences", "largest", "moved")},
        }


def _trained(job: Any, ranks: Any, is_ours: bool, num_steps: int | None = None) -> dict[str, Any]:
    """(loss, norm) of each step and collectives of the last; weights and this rank's gradients after them."""
    from grok1.data.batches import Batches
    from grok1.data.samples import training_samples
    from grok1.device import traffic
    from grok1.megatron.instances import chained, use_fused_adamw
    from grok1.model.model import build_model
    from grok1.training.optimizer import build_optimizer
    from grok1.training.step import Stepper

    recipe, num_steps = job.recipe, job.num_steps if num_steps is None else num_steps
    model = build_model(recipe, ranks, stock=not is_ours)
    optimizer, scheduler = build_optimizer(model, recipe.training, stock=not is_ours)
    if not is_ours:  # the plain AdamW rounds otherwise
        assert use_fused_adamw(optimizer)
    dataset = training_samples(recipe, job.data_prefix, job.tokenizer_path)
    stepper = Stepper(recipe, ranks, model, optimizer, scheduler, Batches(recipe, ranks, dataset))
    vars(traffic)["is_alone"] = lambda _group: False  # count what a group of one rank calls, too
    traffic.TRAFFIC.forget()
    results = [stepper.run(step) for step in range(num_steps)]
    shards = [shard for part in chained(optimizer) for shard in part.get_parameters()]
    return {
        "results": [(each.metrics.loss, each.metrics.grad_norm) for each in results],
        "calls": {name: each.calls for result in results[-1:] for name, each in result.collectives.items()},
        "weights": [weight.detach().clone() for weight in model.parameters()],
        "gradients": [shard.grad.clone() for shard in shards if results and shard.grad is not None],
    }


def _difference(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    pairs = zip(tensors, others, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)

"""The fused AdamW that megatron's optimizer is given on a CPU, beside torch's plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .conftest import ONE_RANK, Train

NUM_STEPS = 5
LEARNING_RATE, WEIGHT_DECAY = 0.01, 0.5  # five steps decay a weight by 2.5 % of itself: far above rounding


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
    from grok1.parallel import joined

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
    from grok1.model import build_model
    from grok1.optim import build_optimizer

    model: Any = build_model(recipe, ranks)
    optimizer, scheduler = build_optimizer(model, recipe.training)
    parts = [each.optimizer for each in optimizer.chained_optimizers]
    for group in [group for part in parts for group in part.param_groups]:
        group["fused"] = group["fused"] and fused
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for parameter in model.parameters():
            parameter.main_grad.copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.step()
        scheduler.step(increment=1)
    states = [(each, part.state[each]) for part in parts for group in part.param_groups for each in group["params"]]
    moments = [state[name] for _, state in states for name in ("exp_avg", "exp_avg_sq") if state]
    return {"weights": [weight.detach().clone() for weight, _ in states], "moments": moments}, parts


def _difference(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    pairs = zip(tensors, others, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)

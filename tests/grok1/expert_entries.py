"""Each choice of `kernels` for the experts beside megatron's own parts, on one rank, as entries for the launcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grok1.engine import SequentialMLP
from grok1.fused_experts import FusedExperts
from grok1.job import Job
from grok1.model import Grok, transformer_config
from grok1.parallel import Ranks, Rendezvous, joined

COUNTS = {  # tokens that each of eight experts gets
    "even": [5] * 8,
    "uneven": [1, 17, 2, 9, 30, 3, 1, 64],
    "some empty": [0, 7, 0, 0, 20, 3, 0, 0],
    "one has all": [0, 0, 0, 40, 0, 0, 0, 0],
    "none": [0] * 8,
}


def experts_beside_sequential(job: Job, where: Rendezvous, _emit: Any) -> dict[str, dict[str, float]]:
    """Largest difference of each output and gradient over its largest value, by case.

    Cases: each of COUNTS, with gradients made by autograd ("returned") and added to `main_grad` ("main_grad"), twice.
    """
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        plain = _experts(recipe, ranks, "sequential")
        ours = _experts(recipe, ranks, "fused")
        assert type(plain) is SequentialMLP
        assert type(ours) is FusedExperts
        ours.load_state_dict(plain.state_dict())
        errors = {}
        for name, counts in COUNTS.items():
            for way in ("returned", "main_grad"):
                for module in (plain, ours):
                    _set_main_grads(module, torch.float32 if way == "main_grad" else None)
                results = [_forward_backward_twice(module, counts) for module in (plain, ours)]
                errors[f"{name}, {way}"] = {key: _relative(results[1][key], value) for key, value in results[0].items()}
        return errors


def _experts(recipe: Any, ranks: Ranks, choice: str) -> Any:
    kernels = recipe.kernels.model_copy(update={"experts": choice})
    chosen = recipe.model_copy(update={"kernels": kernels})
    model: Any = Grok(chosen, transformer_config(chosen), ranks)
    return model.decoder.layers[0].mlp.experts


def _set_main_grads(module: torch.nn.Module, dtype: torch.dtype | None) -> None:
    for parameter in module.parameters():
        parameter.grad = None
        if dtype is not None:
            parameter.main_grad = torch.zeros_like(parameter, dtype=dtype)  # type: ignore[attr-defined]
        elif hasattr(parameter, "main_grad"):
            del parameter.main_grad


def _forward_backward_twice(module: Any, counts: list[int]) -> dict[str, Tensor]:
    """Outputs and gradients of two micro-batches; the weights' are sums over both."""
    weight = next(module.parameters())
    generator = torch.Generator().manual_seed(sum(counts))
    results: dict[str, Tensor] = {}
    for micro_batch in range(2):
        tokens_PH = torch.randn(sum(counts), weight.shape[1], generator=generator).to(weight.dtype).requires_grad_()
        probs_P = torch.rand(sum(counts), generator=generator).requires_grad_()
        output_PH, bias = module(tokens_PH, torch.tensor(counts), probs_P)
        assert bias is None
        # transposed: not contiguous, as a gradient from upstream may be
        upstream_PH = torch.randn(weight.shape[1], sum(counts), generator=generator).to(weight.dtype).t()
        output_PH.backward(upstream_PH)
        assert tokens_PH.grad is not None
        assert probs_P.grad is not None
        results |= {
            f"output {micro_batch}": output_PH.detach(),
            f"tokens {micro_batch}": tokens_PH.grad,
            f"probs {micro_batch}": probs_P.grad,
        }
    for name, parameter in module.named_parameters():
        results[name] = _gradient(parameter)
    return results


def _gradient(parameter: Any) -> Tensor:
    """What autograd returned plus what was added to `main_grad`, as megatron's hook adds them."""
    zero = torch.zeros_like(parameter, dtype=torch.float32)
    returned = zero if parameter.grad is None else parameter.grad.float()
    total: Tensor = returned + getattr(parameter, "main_grad", zero)
    return total


def _relative(ours: Tensor, plain: Tensor) -> float:
    assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)
    if not plain.numel():
        return 0.0
    return float((ours.float() - plain.float()).abs().max() / plain.float().abs().max().clamp(min=1e-30))

"""Each choice of `kernels` for the experts beside megatron's own parts, on one rank, as entries for the launcher."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.kernels.experts import FusedExperts
from grok1.megatron.door import GroupedMLP, SequentialMLP, grouped_gemm_util
from grok1.model.model import Grok, transformer_config
from grok1.training.job import Job
from grok1.training.run import run_rank
from grok1.weights.sharding import LocalWeight, initialise, local_weights
from tests.grok1.weights.weights_entries import loaded_weights
from tests.lines import HAS_GROUPED_EXPERTS

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
    return _beside_sequential(job, where, "fused", FusedExperts)


def grouped_beside_sequential(job: Job, where: Rendezvous, _emit: Any) -> dict[str, dict[str, float]]:
    """The same of megatron's grouped experts, over a package grouped_gemm that is there."""
    with with_package():
        return _beside_sequential(job, where, "grouped", GroupedMLP)


def grouped_beside_sequential_patched(job: Job, where: Rendezvous, _emit: Any) -> dict[str, dict[str, float]]:
    """The same where the package is not there, and MindSpeed has replaced what megatron asks."""
    with as_mindspeed_patches():
        return _beside_sequential(job, where, "grouped", GroupedMLP)


def train_grouped(job: Job, where: Rendezvous, emit: Any) -> Any:
    """A training run with grouped experts, which the launcher refuses on a CPU."""
    with with_package():
        return run_rank(_grouped(job), where, emit)


def grouped_weights(job: Job, where: Rendezvous, emit: Any) -> Any:
    """A checkpoint's weights, loaded by grouped experts."""
    with with_package():
        return loaded_weights(_grouped(job), where, emit)


def build_grouped(job: Job, where: Rendezvous, _emit: Any) -> None:
    """Grouped experts with nothing that could compute them."""
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        Grok(_with_experts(job.recipe, "grouped"), transformer_config(job.recipe), ranks)


class Ops:
    """The call that megatron makes of grouped_gemm.ops, with what that package and MindSpeed's stand-in for it check.

    (The package also wants bf16 on a GPU.)
    """

    @staticmethod
    def gmm(a: Tensor, b: Tensor, batch_sizes: Tensor, trans_b: bool = False) -> Tensor:
        """Rows [P, K] of each group times its matrix of [E, K, N]."""
        assert not trans_b
        assert (a.dim(), b.dim()) == (2, 3)
        assert (batch_sizes.dtype, batch_sizes.device.type, batch_sizes.dim()) == (torch.int64, "cpu", 1)
        assert batch_sizes.count_nonzero()
        parts = a.split(batch_sizes.tolist())
        assert len(parts) == len(b)
        return torch.cat([rows @ matrix for rows, matrix in zip(parts, b, strict=True)])


@contextlib.contextmanager
def with_package() -> Iterator[None]:
    """As if the package had been there when megatron was imported; and without compiling the activation.

    Nothing on a line of megatron-core that would not ask for it.
    """
    if not HAS_GROUPED_EXPERTS:
        yield
        return
    package = mock.Mock(ops=Ops)
    with mock.patch.multiple(grouped_gemm_util, grouped_gemm=package, ops=Ops), _not_compiled(), _in_any_dtype():
        yield


@contextlib.contextmanager
def as_mindspeed_patches() -> Iterator[None]:
    """The three names that its grouped-matmul feature replaces; it also turns torch.compile off."""
    names: dict[str, Any] = {
        "ops": Ops,
        "grouped_gemm_is_available": lambda: True,
        "assert_grouped_gemm_is_available": lambda: None,
    }
    with mock.patch.multiple(grouped_gemm_util, **names), _not_compiled(), _in_any_dtype():
        assert grouped_gemm_util.grouped_gemm is None
        yield


def _not_compiled() -> Any:
    return mock.patch.object(sys.modules[GroupedMLP.__module__], "jit_fuser", lambda function: function)


def _in_any_dtype() -> Any:
    """0.16 refuses fp32 before its products do, which here compute in any dtype."""
    forward: Any = GroupedMLP.forward

    def said_to_be_bf16(self: Any, *args: Any) -> Any:
        with mock.patch.object(self.config, "bf16", True):
            return forward(self, *args)

    return mock.patch.object(GroupedMLP, "forward", said_to_be_bf16)


def _grouped(job: Job) -> Job:
    return replace(job, recipe=_with_experts(job.recipe, "grouped"))


def _with_experts(recipe: Any, choice: str) -> Any:
    """Copied, not loaded: float32 is refused beside grouped, and tells more here."""
    return recipe.model_copy(update={"kernels": recipe.kernels.model_copy(update={"experts": choice})})


def _beside_sequential(job: Job, where: Rendezvous, choice: str, kind: type) -> dict[str, dict[str, float]]:
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        plain, ours = _experts(recipe, ranks, "sequential"), _experts(recipe, ranks, choice)
        assert type(plain[0]) is SequentialMLP
        assert type(ours[0]) is kind
        errors = {}
        for name, counts in COUNTS.items():
            for way in ("returned", "main_grad"):
                for module, _ in (plain, ours):
                    _set_main_grads(module, torch.float32 if way == "main_grad" else None)
                # megatron's by rows: torch 2.7.1's bf16 products of one row of a transposed matrix are wrong on a CPU
                results = [
                    _forward_backward_twice(*plain, counts, is_transposed=False),
                    _forward_backward_twice(*ours, counts, is_transposed=True),
                ]
                errors[f"{name}, {way}"] = {
                    key: relative_difference(results[1][key], value) for key, value in results[0].items()
                }
        return errors


def _experts(recipe: Any, ranks: Ranks, choice: str) -> tuple[Any, list[LocalWeight]]:
    """The first layer's experts, and their weights by name, which have the same values whatever the choice."""
    chosen = _with_experts(recipe, choice)
    model: Any = Grok(chosen, transformer_config(chosen), ranks)
    initialise(model, chosen, ranks)
    weights = [each for each in local_weights(model, chosen, ranks) if ".layers.0.mlp.experts." in each.name]
    return model.decoder.layers[0].mlp.experts, weights


def _set_main_grads(module: torch.nn.Module, dtype: torch.dtype | None) -> None:
    for parameter in module.parameters():
        parameter.grad = None
        if dtype is not None:
            parameter.main_grad = torch.zeros_like(parameter, dtype=dtype)  # type: ignore[attr-defined]
        elif hasattr(parameter, "main_grad"):
            del parameter.main_grad


def _forward_backward_twice(
    module: Any, weights: list[LocalWeight], counts: list[int], is_transposed: bool
) -> dict[str, Tensor]:
    """Outputs and gradients of two micro-batches; the weights' are sums over both.

    A transposed gradient from upstream is not contiguous, as it may be.
    """
    hidden, dtype = module.config.hidden_size, weights[0].parameter.dtype
    generator = torch.Generator().manual_seed(sum(counts))
    results: dict[str, Tensor] = {}
    for micro_batch in range(2):
        tokens_PH = torch.randn(sum(counts), hidden, generator=generator).to(dtype).requires_grad_()
        probs_P = torch.rand(sum(counts), generator=generator).requires_grad_()
        output_PH, bias = module(tokens_PH, torch.tensor(counts), probs_P)
        assert bias is None
        upstream_PH = torch.randn(hidden, sum(counts), generator=generator).to(dtype).t()
        output_PH.backward(upstream_PH if is_transposed else upstream_PH.contiguous())
        assert tokens_PH.grad is not None
        assert probs_P.grad is not None
        results |= {
            f"output {micro_batch}": output_PH.detach(),
            f"tokens {micro_batch}": tokens_PH.grad,
            f"probs {micro_batch}": probs_P.grad,
        }
    for weight in weights:
        results[weight.name] = weight.matrix(_gradient(weight.parameter))
    return results


def _gradient(parameter: Any) -> Tensor:
    """What autograd returned plus what was added to `main_grad`, as megatron's hook adds them."""
    zero = torch.zeros_like(parameter, dtype=torch.float32)
    returned = zero if parameter.grad is None else parameter.grad.float()
    total: Tensor = returned + getattr(parameter, "main_grad", zero)
    return total


def relative_difference(ours: Tensor, plain: Tensor) -> float:
    """The largest difference over the largest value, of tensors of one shape and dtype."""
    assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)
    if not plain.numel():
        return 0.0
    return float((ours.float() - plain.float()).abs().max() / plain.float().abs().max().clamp(min=1e-30))

"""The fused dense layers beside megatron's, on one rank and on several, as an entry for the launcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.kernels.linear import FusedColumnLinear, FusedRowLinear
from grok1.megatron.door import ColumnParallelLinear, RowParallelLinear, TransformerConfig, tensor_parallel
from grok1.model.model import Grok, transformer_config
from grok1.training.job import Job
from tests.grok1.kernels.expert_entries import relative_difference

WIDE, NARROW, LENGTH, BATCH = 2048, 512, 64, 4  # whose products on four ranks are still oneDNN's
MICRO_BATCHES = 3
WAYS = ("returned", "main_grad", "recomputed", "offloaded", "frozen")
Results = dict[str, dict[str, float]]


def dense_beside_megatrons(job: Job, where: Rendezvous, _emit: Any) -> list[Results]:
    """Each rank's largest difference of each output and gradient over its largest value, by case.

    Cases: both layers, with and without sequence parallelism, and the WAYS: gradients made by autograd, added to
    `main_grad`, so with the layer run again in backward, so with saved tensors put away and brought back as others;
    weights that have none.
    """
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        config = transformer_config(recipe)
        errors: Results = {}
        for is_sequence_parallel in {False, recipe.parallel.tensor > 1}:
            config.sequence_parallel = is_sequence_parallel
            for kind, pair in (("column", _columns(config)), ("row", _rows(config))):
                pair[1].load_state_dict(pair[0].state_dict())
                for way in WAYS:
                    plain, ours = (_run(layer, kind, way, ranks, recipe.parallel.tensor) for layer in pair)
                    name = f"{kind}, {way}" + ", sequence-parallel" * is_sequence_parallel
                    errors[name] = {key: relative_difference(ours[key], value) for key, value in plain.items()}
                    assert ours.keys() == plain.keys()
        gathered: list[Any] = [None] * ranks.world_size
        dist.all_gather_object(gathered, errors)
        return gathered


def _columns(config: TransformerConfig) -> list[Any]:
    return [
        kind(NARROW, WIDE, config=config, init_method=torch.nn.init.xavier_normal_, bias=False, gather_output=False)
        for kind in (ColumnParallelLinear, FusedColumnLinear)
    ]


def _rows(config: TransformerConfig) -> list[Any]:
    settings = {"bias": False, "input_is_parallel": True, "skip_bias_add": True}
    return [
        kind(WIDE, NARROW, config=config, init_method=torch.nn.init.xavier_normal_, **settings)
        for kind in (RowParallelLinear, FusedRowLinear)
    ]


def _run(layer: Any, kind: str, way: str, ranks: Ranks, ways_split: int) -> dict[str, Tensor]:
    """Outputs and inputs' gradients of each micro-batch, and the weight's sum over them."""
    weight = layer.weight
    weight.requires_grad_(way != "frozen")
    weight.grad = None
    weight.main_grad = torch.zeros_like(weight, dtype=torch.float32)
    if way == "returned":
        del weight.main_grad
    part = LENGTH // ways_split if layer.sequence_parallel else LENGTH
    is_column = kind == "column"
    sizes = (part if is_column else LENGTH, BATCH, weight.shape[1])
    # a column layer's input is the same on all ranks unless each has its part of the sequence
    is_shared = is_column and not layer.sequence_parallel
    generator = torch.Generator().manual_seed(7 if is_shared else 7 + ranks.rank)
    upstream_seed = torch.Generator().manual_seed(99 + (ranks.rank if is_column or layer.sequence_parallel else 0))
    results: dict[str, Tensor] = {}
    for micro_batch in range(MICRO_BATCHES):
        inputs = torch.randn(sizes, generator=generator).to(weight.dtype).requires_grad_()
        output = _called(layer, way)(inputs)
        # not contiguous, as a gradient from upstream may be
        upstream = torch.randn(output.transpose(0, 1).shape, generator=upstream_seed).transpose(0, 1)
        output.backward(upstream.to(weight.dtype))
        assert inputs.grad is not None
        results |= {f"output {micro_batch}": output.detach().clone(), f"input {micro_batch}": inputs.grad}
        if way != "returned" and weight.grad is not None:  # as megatron's hook does
            weight.main_grad.add_(weight.grad)
            weight.grad = None
    results["weight"] = weight.grad if way == "returned" else weight.main_grad.clone()
    return results


def _called(layer: Any, way: str) -> Callable[[Tensor], Tensor]:
    def call(inputs: Tensor) -> Tensor:
        output: Tensor = layer(inputs)[0]
        return output

    def recomputed(inputs: Tensor) -> Tensor:
        output: Tensor = tensor_parallel.checkpoint(call, False, inputs)
        return output

    def offloaded(inputs: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept.detach().clone(), lambda kept: kept):
            return call(inputs)

    return {"recomputed": recomputed, "offloaded": offloaded}.get(way, call)


def gradients_left_to_the_hook(job: Job, where: Rendezvous, _emit: Any) -> int:
    """How many of our layers' weights autograd returns a gradient of, where they have a `main_grad`; should be 0."""
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed):
        found = 0
        for layer in (_columns(transformer_config(recipe))[1], _rows(transformer_config(recipe))[1]):
            layer.weight.main_grad = torch.zeros_like(layer.weight)
            layer(torch.ones(2, 1, layer.weight.shape[1]))[0].sum().backward()
            assert layer.weight.main_grad.any()
            found += layer.weight.grad is not None
        return found


def choices(job: Job, where: Rendezvous, _emit: Any) -> dict[str, list[str]]:
    """The classes of a model's dense layers, by the recipe's choice."""
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        found = {}
        for choice in ("megatron", "fused"):
            kernels = job.recipe.kernels.model_copy(update={"linear": choice})
            recipe = job.recipe.model_copy(update={"kernels": kernels})
            model: Any = Grok(recipe, transformer_config(recipe), ranks)
            attention = model.decoder.layers[0].self_attention
            layers = (attention.linear_qkv, attention.linear_proj, model.output_layer)
            found[choice] = [type(layer).__name__ for layer in layers]
            assert "output_layer.weight" in dict(model.named_parameters())
        return found

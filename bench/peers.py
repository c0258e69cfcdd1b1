"""Our step beside stock parts' and Hugging Face Mixtral's: same size, same batch, same threads, in turns.

Stock is the same model of megatron-core's own parts: SequentialMLP, its all-to-all dispatcher, DotProductAttention, its
optimizer's own steps with torch's plain AdamW. Mixtral has two norms a layer where Grok-1 has four, transformers'
defaults otherwise, and AdamW by torch's fused kernel. Beside them, in every round, what the machine's matrix products
reach. The test beside it reads the lists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from bench.overhead import timed
from grok1.config.recipe import Recipe
from grok1.config.sections import Kernels
from grok1.data.batches import Batches
from grok1.device import mailboxes, measuring, seam
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.kernels.gemm import matmul
from grok1.megatron.door import DotProductAttention
from grok1.model.model import build_model, unwrapped
from grok1.training.assembly import build_stepper, joined_with_data
from grok1.training.job import Job
from grok1.training.result import Emit
from grok1.training.step import Stepper

_GEMM_SIZE = 1024
_GEMM_REPEATS = 5


def one_rank(job: Job, where: Rendezvous, _emit: Emit) -> dict[str, list[float]]:
    """Wall seconds of each step of "ours", "stock" and "mixtral", and the FLOP/s of products by "torch" and "onednn".

    `job.num_steps` rounds, each with a step of every side and the products; the first is a warm-up and left out.
    """
    recipe = job.recipe
    with joined_with_data(job, where) as (ranks, batches):
        sides = {
            "ours": _step_of(build_stepper(recipe, ranks, batches)),
            "stock": _step_of(_stock_stepper(stock(recipe), ranks, batches)),
            "mixtral": _mixtral(recipe, batches),
        }
        found: dict[str, list[float]] = {name: [] for name in (*sides, "torch", "onednn")}
        for step in range(job.num_steps):
            for name, run in sides.items():
                taken = timed(run, step)
                if step:
                    found[name].append(taken)
            found["torch"].append(_flops_per_second(torch.mm))
            found["onednn"].append(_flops_per_second(matmul))
        return found


def ours(job: Job, where: Rendezvous, _emit: Emit) -> dict[str, list[float]] | None:
    """Wall seconds of the steps after the first, and each rank's peak bytes, of the recipe as it is."""
    return _measured(job, where, build_stepper)


def over_connections(job: Job, where: Rendezvous, emit: Emit) -> dict[str, list[float]] | None:
    """The same without shared memory."""
    with mock.patch.object(mailboxes, "_may_open", return_value=False):
        return ours(job, where, emit)


def stock_parts(job: Job, where: Rendezvous, _emit: Emit) -> dict[str, list[float]] | None:
    """The same of the recipe with megatron's parts."""
    return _measured(replace(job, recipe=stock(job.recipe)), where, _stock_stepper)


def stock_alone(job: Job, where: Rendezvous, emit: Emit) -> dict[str, list[float]] | None:
    """The same without what our launcher gives ranks on a CPU, but for its heap: default scheduling, torch's gloo."""
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with mock.patch.object(seam, "backend", return_value="gloo"):
        return stock_parts(job, where, emit)


def products(_job: Job, _where: Rendezvous, _emit: Emit) -> list[float]:
    """FLOP/s of each of a few products on this rank, the quicker library's."""
    return [max(_flops_per_second(torch.mm), _flops_per_second(matmul)) for _ in range(_GEMM_REPEATS)]


def stock(recipe: Recipe) -> Recipe:
    """The recipe with megatron's own parts."""
    return recipe.model_copy(update={"kernels": Kernels()})


def _measured(
    job: Job, where: Rendezvous, build: Callable[[Recipe, Ranks, Batches], Stepper]
) -> dict[str, list[float]] | None:
    with joined_with_data(job, where) as (ranks, batches):
        run = _step_of(build(job.recipe, ranks, batches))
        seconds = []
        for step in range(job.num_steps):
            dist.barrier()
            seconds.append(timed(run, step))
        peaks = [0.0] * ranks.world_size
        dist.all_gather_object(peaks, measuring.peak_bytes()[0])
        return {"seconds": seconds[1:], "peak_bytes": peaks} if ranks.rank == 0 else None


def _step_of(stepper: Stepper) -> Callable[[int], float]:
    return lambda step: stepper.run(step).metrics.loss


def _stock_stepper(recipe: Recipe, ranks: Ranks, batches: Batches) -> Stepper:
    return build_stepper(recipe, ranks, batches, stock=True, core_attention=_StockAttention)


class _StockAttention(DotProductAttention):
    """megatron's own, given the causal mask that it would otherwise make on a CUDA device."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: object = None, **kwargs: object
    ) -> Tensor:
        """Context [S, B, H*D]."""
        length = query.shape[0]
        future_SS = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        context: Tensor = super().forward(query, key, value, future_SS[None, None], **kwargs)
        return context


def _mixtral(recipe: Recipe, batches: Batches) -> Callable[[int], float]:
    """A step over the same micro-batches, clipped, of a model of the same sizes."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes, training = recipe.model, recipe.training
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.ffn_hidden_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_attention_heads,
            num_key_value_heads=sizes.num_query_groups,
            head_dim=sizes.head_dim,
            max_position_embeddings=training.sequence_length,
            num_local_experts=sizes.num_experts,
            num_experts_per_tok=sizes.experts_per_token,
            output_router_logits=True,
            router_aux_loss_coef=sizes.aux_loss_coefficient,
            use_cache=False,
        )
    ).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )

    def run(step: int) -> float:
        micro_batches = batches.step(step)
        optimizer.zero_grad()
        losses = []
        for batch in micro_batches:
            output = model(input_ids=batch["tokens"], labels=batch["tokens"])
            (output.loss / len(micro_batches)).backward()
            losses.append(output.loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_grad)
        optimizer.step()
        return float(torch.stack(losses).mean())

    return run


def _flops_per_second(product: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The best of a few square products, which is what a limit is."""
    left, right = torch.randn(_GEMM_SIZE, _GEMM_SIZE), torch.randn(_GEMM_SIZE, _GEMM_SIZE)
    product(left, right)
    seconds = []
    for _ in range(_GEMM_REPEATS):
        start = time.perf_counter()
        product(left, right)
        seconds.append(time.perf_counter() - start)
    return float(2 * _GEMM_SIZE**3 / min(seconds))


def experts_alone(job: Job, where: Rendezvous, _emit: Emit) -> dict[str, list[float]]:
    """Seconds of one layer's experts, forward and backward, gradients added up, over a micro-batch's even load.

    "ours" and "megatron": this recipe's experts and SequentialMLP. "grouped_mm": torch's on weights that lie stacked.
    """
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        sides = {
            "ours": _expert_step(recipe, _first_experts(recipe, ranks)),
            "megatron": _expert_step(recipe, _first_experts(stock(recipe), ranks)),
            "grouped_mm": _expert_step(recipe, _GroupedExperts(recipe)),
        }
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(job.num_steps):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                if turn:
                    found[name].append(time.perf_counter() - start)
        return found


def _first_experts(recipe: Recipe, ranks: Ranks) -> torch.nn.Module:
    experts: torch.nn.Module = unwrapped(build_model(recipe, ranks)).decoder.layers[0].mlp.experts
    return experts


def _expert_step(recipe: Recipe, experts: torch.nn.Module) -> Callable[[], None]:
    sizes, training = recipe.model, recipe.training
    pairs = training.micro_batch * training.sequence_length * sizes.experts_per_token
    tokens_PH = torch.randn(pairs, sizes.hidden_size, requires_grad=True)
    probs_P = torch.rand(pairs, requires_grad=True)
    upstream_PH = torch.randn(pairs, sizes.hidden_size)
    counts_E = torch.full((sizes.num_experts,), pairs // sizes.num_experts)

    def run() -> None:
        tokens_PH.grad = probs_P.grad = None
        output_PH, _ = experts(tokens_PH, counts_E, probs_P)
        output_PH.backward(upstream_PH)

    return run


class _GroupedExperts(torch.nn.Module):
    """The same sums by torch.nn.functional.grouped_mm."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        sizes = recipe.model
        hidden, width = sizes.hidden_size, sizes.ffn_hidden_size
        self.fc1_EH2F = torch.nn.Parameter(0.01 * torch.randn(sizes.num_experts, hidden, 2 * width))
        self.fc2_EFH = torch.nn.Parameter(0.01 * torch.randn(sizes.num_experts, width, hidden))

    def forward(self, tokens_PH: Tensor, counts_E: Tensor, probs_P: Tensor) -> tuple[Tensor, None]:
        """[P, H] in and out."""
        ends_E = counts_E.cumsum(0).int()
        gate_PF, value_PF = F.grouped_mm(tokens_PH, self.fc1_EH2F, offs=ends_E).chunk(2, dim=-1)
        output_PH = F.grouped_mm(F.silu(gate_PF) * value_PF, self.fc2_EFH, offs=ends_E)
        return output_PH * probs_P[:, None], None

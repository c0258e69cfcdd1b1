"""The Ascend recipe's training in float64 and plain torch, written without megatron: what every layout must give.

It takes and gives weights under their published names, matrices [out, in] (see grok1.weights.names). One step's
objective is the mean over the global batch's micro-batches of

    cross-entropy + aux_loss_coefficient * sum over layers of the routers' load-balancing loss,

the latter over one micro-batch's tokens. Every choice stands in a function of its own, so that a test can replace
it and see the comparison fail.

Legend: B sequences of a micro-batch, S their length, T keys, D hidden size, H query heads, G key/value heads,
K head size, N tokens of a micro-batch, E experts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.config.sections import Model, Training

Weights = dict[str, Tensor]


class MicroBatch(NamedTuple):
    """Tokens and the tokens that follow them, both [B, S]."""

    tokens: Tensor
    labels: Tensor


class Routing(NamedTuple):
    """Which experts a layer's tokens went to, as gates [N, E] that are 0 elsewhere."""

    gates: Tensor
    balance_loss: Tensor
    gap: float  # the least by which a token's last chosen logit exceeds its first one not chosen


class Output(NamedTuple):
    """What the model made of one micro-batch."""

    logits: Tensor  # [B, S, V]
    routings: list[Routing]  # by layer


@dataclass(frozen=True)
class Batch:
    """What one global batch gives: means over its micro-batches, and the gradient of the objective."""

    loss: float
    aux_loss: float  # mean over layers, without the coefficient
    gap: float
    logits: list[Tensor]  # by micro-batch
    gradients: Weights

    @property
    def grad_norm(self) -> float:
        """The Euclidean norm of all gradients as one vector, before clipping."""
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in self.gradients.values()))


@dataclass(frozen=True)
class Run:
    """Training steps from 0 on, and the weights after the last."""

    steps: list[Batch]
    learning_rates: list[float]
    weights: Weights


# ---- the model ---------------------------------------------------------------------------------------


def rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """Scale * x / sqrt(mean(x^2) + epsilon)."""
    return scale * x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)


def rotate_half(x: Tensor) -> Tensor:
    """[-b, a] of the halves [a, b] of the last axis."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def rotary_phases(length: int, size: int, base: int) -> Tensor:
    """The angle [S, K] of each position and component; a half's component j turns by base^(-2j/K) a position."""
    rates = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    phases = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat((phases, phases), dim=-1)


def rotate(x_BSHK: Tensor, base: int) -> Tensor:
    """Rotary position embedding over the whole head."""
    phases = rotary_phases(x_BSHK.shape[1], x_BSHK.shape[3], base)[:, None, :]
    return x_BSHK * phases.cos() + rotate_half(x_BSHK) * phases.sin()


def group_of_head(heads: int, groups: int) -> Tensor:
    """Which key/value head each query head reads: neighbours share one."""
    return torch.arange(heads) // (heads // groups)


def score_multiplier(model: Model) -> float:
    """What attention scores are multiplied with."""
    return 1.0 / math.sqrt(model.head_dim)


def future_keys(length: int) -> Tensor:
    """True where a key lies after the query, [S, T]."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def attention(weights: Weights, prefix: str, model: Model, x_BSD: Tensor) -> Tensor:
    """Causal grouped-query attention, no bias."""
    batch, length, _ = x_BSD.shape
    shape = (batch, length, -1, model.head_dim)
    query, key, value = ((x_BSD @ weights[f"{prefix}{name}_proj.weight"].T).view(shape) for name in "qkv")
    query, key = rotate(query, model.rope_base), rotate(key, model.rope_base)
    group = group_of_head(model.num_attention_heads, model.num_query_groups)
    scores_BHST = torch.einsum("bshk,bthk->bhst", query, key[:, :, group]) * score_multiplier(model)
    shares_BHST = scores_BHST.masked_fill(future_keys(length), -math.inf).softmax(-1)
    context_BSHK = torch.einsum("bhst,bthk->bshk", shares_BHST, value[:, :, group])
    return context_BSHK.flatten(2) @ weights[f"{prefix}o_proj.weight"].T


def choose(logits_NE: Tensor, count: int) -> Tensor:
    """True for each token's `count` largest logits, [N, E]."""
    best = logits_NE.topk(count, dim=-1).indices
    return torch.zeros_like(logits_NE, dtype=torch.bool).scatter(1, best, True)


def gates_of(logits_NE: Tensor, chosen: Tensor) -> Tensor:
    """Softmax over the chosen experts' logits alone, so that each token's gates [N, E] sum to 1."""
    return logits_NE.masked_fill(~chosen, -math.inf).softmax(-1)


def balance_loss(logits_NE: Tensor, chosen: Tensor) -> Tensor:
    """Switch's: E * sum over experts of (share of the choices) * (mean probability), 1 when all are equal.

    Probabilities are over all experts, chosen or not. The shares carry no gradient.
    """
    shares_E = chosen.double().sum(0) / chosen.sum()
    return logits_NE.shape[1] * (shares_E * logits_NE.softmax(-1).mean(0)).sum()


def route(gate_ED: Tensor, model: Model, x_ND: Tensor) -> Routing:
    """Choose experts for each token."""
    logits = x_ND @ gate_ED.T
    chosen = choose(logits, model.experts_per_token)
    ordered = logits.detach().sort(dim=-1, descending=True).values
    gaps = ordered[:, model.experts_per_token - 1] - ordered[:, model.experts_per_token]
    return Routing(gates_of(logits, chosen), balance_loss(logits, chosen), float(gaps.min()))


def activation(x: Tensor) -> Tensor:
    """What stands around an expert's gate branch: SiLU."""
    return x * torch.sigmoid(x)


def expert(weights: Weights, prefix: str, x_ND: Tensor) -> Tensor:
    """One expert's answer."""
    gate = activation(x_ND @ weights[f"{prefix}linear.weight"].T)
    return (gate * (x_ND @ weights[f"{prefix}linear_v.weight"].T)) @ weights[f"{prefix}linear_1.weight"].T


def experts(weights: Weights, prefix: str, x_ND: Tensor, gates: Tensor) -> Tensor:
    """The chosen experts' answers, weighted by their gates."""
    output = torch.zeros_like(x_ND)
    for index in range(gates.shape[1]):
        rows = gates[:, index].detach().nonzero().flatten()
        answer = expert(weights, f"{prefix}experts.{index}.", x_ND[rows])
        output = output.index_add(0, rows, gates[rows, index, None] * answer)
    return output


def layer(weights: Weights, prefix: str, model: Model, h_BSD: Tensor) -> tuple[Tensor, Routing]:
    """Attention, then experts; each block between two norms, beside a residual stream that is never normalised."""

    def norm(name: str, x: Tensor) -> Tensor:
        return rms_norm(x, weights[f"{prefix}{name}_norm.weight"], model.norm_epsilon)

    attended = attention(weights, f"{prefix}attn.", model, norm("pre_attn", h_BSD))
    h_BSD = h_BSD + norm("post_attn", attended)
    x_ND = norm("pre_moe", h_BSD).flatten(0, 1)
    routing = route(weights[f"{prefix}moe_block.gate.weight"], model, x_ND)
    answer = experts(weights, f"{prefix}moe_block.", x_ND, routing.gates).view_as(h_BSD)
    return h_BSD + norm("post_moe", answer), routing


def is_ascend(model: Model) -> bool:
    """Whether the model makes the Ascend recipe's choices, the only ones written here."""
    choices = (model.activation, model.router, model.tie_embeddings)
    return choices == ("swiglu", "topk_then_softmax", False) and not (
        model.attention_logit_cap or model.attention_multiplier
    )


def forward(weights: Weights, model: Model, tokens_BS: Tensor) -> Output:
    """Logits and routings of one micro-batch."""
    assert is_ascend(model), "the reference knows the Ascend recipe's choices only"
    h_BSD = weights["model.embed_tokens.weight"][tokens_BS] * model.embedding_multiplier
    routings = []
    for index in range(model.num_layers):
        h_BSD, routing = layer(weights, f"model.layers.{index}.", model, h_BSD)
        routings.append(routing)
    h_BSD = rms_norm(h_BSD, weights["model.norm.weight"], model.norm_epsilon)
    return Output(h_BSD @ weights["lm_head.weight"].T * model.output_multiplier, routings)


def cross_entropy(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Mean over all tokens of -log softmax(logits)[label]."""
    return (logits_BSV.logsumexp(-1) - logits_BSV.gather(-1, labels_BS[..., None])[..., 0]).mean()


# ---- training ----------------------------------------------------------------------------------------


def evaluate(weights: Weights, model: Model, micro_batches: Sequence[MicroBatch]) -> Batch:
    """Losses and gradients of a global batch."""
    leaves = {name: weight.detach().double().requires_grad_() for name, weight in weights.items()}
    outputs = [forward(leaves, model, batch.tokens) for batch in micro_batches]
    losses = [cross_entropy(output.logits, batch.labels) for output, batch in zip(outputs, micro_batches, strict=True)]
    balance = [torch.stack([routing.balance_loss for routing in output.routings]) for output in outputs]
    loss, balance_losses = torch.stack(losses).mean(), torch.stack(balance)  # the latter by micro-batch and layer
    objective = loss + model.aux_loss_coefficient * balance_losses.sum(1).mean()
    gradients = torch.autograd.grad(objective, list(leaves.values()))
    return Batch(
        loss=float(loss.detach()),
        aux_loss=float(balance_losses.detach().mean()),
        gap=min(routing.gap for output in outputs for routing in output.routings),
        logits=[output.logits.detach() for output in outputs],
        gradients=dict(zip(leaves, gradients, strict=True)),
    )


def learning_rate(training: Training, step: int) -> float:
    """The rate of the update at a step, counted from 0: the first is 0, the peak comes at `warmup_steps`."""
    peak, low = training.learning_rate, training.min_learning_rate
    if step < training.warmup_steps:
        return peak * step / training.warmup_steps
    if step >= training.decay_steps:
        return low
    done = (step - training.warmup_steps) / (training.decay_steps - training.warmup_steps)
    return low + (peak - low) * (1 + math.cos(math.pi * done)) / 2


def clip_factor(training: Training, grad_norm: float) -> float:
    """What every gradient is multiplied with; megatron adds 1e-6 to the norm."""
    return min(1.0, training.clip_grad / (grad_norm + 1e-6)) if training.clip_grad else 1.0


def decays(weight: Tensor) -> bool:
    """Whether weight decay applies: to matrices, embeddings and router included, and to no norm."""
    return weight.dim() > 1


def train(weights: Weights, recipe: Recipe, batches: Sequence[Sequence[MicroBatch]]) -> Run:
    """AdamW over one global batch a step."""
    training = recipe.training
    parameters = {name: torch.nn.Parameter(weight.double().clone()) for name, weight in weights.items()}
    decaying = [weight for weight in parameters.values() if decays(weight)]
    others = [weight for weight in parameters.values() if not decays(weight)]
    optimizer = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": training.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )
    steps, rates = [], []
    for step, micro_batches in enumerate(batches):
        batch = evaluate(dict(parameters), recipe.model, micro_batches)
        factor, rate = clip_factor(training, batch.grad_norm), learning_rate(training, step)
        for name, parameter in parameters.items():
            parameter.grad = batch.gradients[name] * factor
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        steps.append(batch)
        rates.append(rate)
    return Run(steps, rates, {name: parameter.detach().clone() for name, parameter in parameters.items()})

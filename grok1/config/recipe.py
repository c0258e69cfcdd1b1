"""The recipe: everything that decides what a training step computes, frozen and self-checking.

A recipe is a TOML file read into frozen objects that refuse bad values before any process starts.
It counts its own parameters and FLOPs and estimates its own memory, all without torch.
Formulas: 6 N T for the matrix products of forward and backward, causal attention counted as half of
the full T x T matrix, the LM head counted, the embedding lookup not.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from grok1.config.activations import activation_bytes
from grok1.config.levers import check_levers
from grok1.config.sections import Data, Frozen, Kernels, Model, Parallel, Training, divides
from grok1.config.stages import check_stages, stage_layers

_MATMUL_FLOPS = 6  # 2 for multiply and add, times 3 for forward and the two products of backward
_LATE_KEYS: dict[str, tuple[str, ...]] = {
    "model": ("z_loss_coefficient",),
    "parallel": (
        "context",
        "context_exchange",
        "virtual_pipeline",
        "first_stage_layers",
        "last_stage_layers",
        "order",
    ),
    "training": (
        "gradient_dtype",
        "router_dtype",
        "reuse_fp32_parameters",
        "recompute_method",
        "recompute_layers",
        "recompute_modules",
        "expert_capacity_factor",
        "expert_drop_policy",
        "pad_to_capacity",
        "routing",
    ),
}


class Recipe(Frozen):
    """One training job, whole. Construction fails when the parts do not fit together."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = Field(default="", max_length=1000)
    model: Model
    parallel: Parallel
    training: Training
    data: Data = Data()
    kernels: Kernels = Kernels()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        model, parallel, training = self.model, self.parallel, self.training
        tensor = parallel.tensor
        divides("parallel.tensor", tensor, "model.num_attention_heads", model.num_attention_heads)
        divides("parallel.tensor", tensor, "model.num_query_groups", model.num_query_groups)
        divides("parallel.tensor", tensor, "model.vocab_size", model.vocab_size)
        divides("parallel.expert", parallel.expert, "model.num_experts", model.num_experts)
        divides("parallel.expert_tensor", parallel.expert_tensor, "model.ffn_hidden_size", model.ffn_hidden_size)
        if parallel.sequence_parallel:
            divides("parallel.tensor", tensor, "training.sequence_length", training.sequence_length)
        if parallel.context > 1:
            _check_context(model, parallel, training, self.kernels)
        replicas = training.micro_batch * parallel.data
        if self.kernels.dispatch == "merged" and parallel.dispatcher != "alltoall":
            raise ValueError(
                f"kernels.dispatch merged with parallel.dispatcher {parallel.dispatcher}: merged dispatch is an "
                "all-to-all; set parallel.dispatcher=alltoall, or kernels.dispatch=megatron"
            )
        if self.kernels.experts == "grouped":
            _check_grouped(model, training)
        if self.kernels.linear == "mc2" and tensor == 1:
            raise ValueError(
                "kernels.linear mc2 with parallel.tensor 1: MC2 joins a product with the tensor ranks' exchange, and "
                "there is none; set parallel.tensor above 1, or kernels.linear=megatron"
            )
        if self.kernels.attention == "te" and model.attention_logit_cap:
            raise ValueError(
                f"kernels.attention te with model.attention_logit_cap {model.attention_logit_cap:g}: Transformer "
                "Engine's attention has no cap on its logits; set kernels.attention=torch"
            )
        divides("micro_batch x data parallel", replicas, "training.global_batch", training.global_batch)
        check_stages(model, parallel, self.num_micro_batches)
        check_levers(model, parallel, training, self.kernels)
        return self

    # ---- counts -------------------------------------------------------------------------------------

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches that each data-parallel replica runs in a step."""
        return self.training.global_batch // (self.training.micro_batch * self.parallel.data)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.training.global_batch * self.training.sequence_length

    def tokens_per_second_per_processor(self, step_seconds: float) -> float:
        """tokens/s/p of a step that takes so long."""
        return self.tokens_per_step / step_seconds / self.parallel.world_size

    @property
    def attention_parameters(self) -> int:
        """Matrix parameters of one layer's attention: query, key, value, output."""
        model = self.model
        return model.hidden_size * (2 * model.query_size + 2 * model.key_value_size)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert: gate, value and output matrices."""
        return 3 * self.model.hidden_size * self.model.ffn_hidden_size

    def parameters(self) -> int:
        """All parameters of the model, counted once whatever the layout."""
        model = self.model
        layer = (
            self.attention_parameters
            + model.num_experts * (self.expert_parameters + model.hidden_size)  # experts and router rows
            + 4 * model.hidden_size  # the sandwich norms
        )
        embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
        return model.num_layers * layer + embeddings + model.hidden_size

    def active_parameters(self) -> int:
        """Matrix parameters that one token is multiplied with: attention, router, its experts, LM head."""
        model = self.model
        layer = (
            self.attention_parameters
            + model.experts_per_token * self.expert_parameters
            + model.num_experts * model.hidden_size
        )
        return model.num_layers * layer + model.vocab_size * model.hidden_size

    def flops_per_token(self) -> float:
        """Model FLOPs of forward and backward for one token; causal attention, no recompute."""
        causal_attention = _MATMUL_FLOPS * self.model.num_layers * self.model.query_size * self.training.sequence_length
        return float(_MATMUL_FLOPS * self.active_parameters() + causal_attention)

    def flops_per_step(self) -> float:
        """Model FLOPs of one global batch, over all ranks."""
        return self.flops_per_token() * self.tokens_per_step

    def parameters_per_rank(self) -> tuple[int, int]:
        """(dense, expert) parameters that the fullest rank holds."""
        return max((self._stage_parameters(stage) for stage in range(self.parallel.pipeline)), key=sum)

    def _stage_parameters(self, stage: int) -> tuple[int, int]:
        """(dense, expert) parameters of a rank in that stage, embedding and head included; but not the final norm."""
        model, parallel = self.model, self.parallel
        layers = stage_layers(model.num_layers, parallel)[stage]
        # the router and the norms are not split
        dense_layer = self.attention_parameters // parallel.tensor + model.hidden_size * (model.num_experts + 4)
        is_first, is_last = stage == 0, stage == parallel.pipeline - 1
        ends = 1 if is_first and is_last and model.tie_embeddings else is_first + is_last
        dense = layers * dense_layer + ends * model.vocab_size * model.hidden_size // parallel.tensor
        experts = model.num_experts // parallel.expert
        return dense, layers * experts * self.expert_parameters // parallel.expert_tensor

    def bytes_per_rank(self) -> int:
        """Estimated peak bytes on the fullest rank: weights, gradients, sharded Adam state, activations.

        Weights and gradients are exact. Activations count the tensors that backward keeps per layer and
        in-flight micro-batch (the first pipeline stage keeps most of them), so they are an estimate.
        """
        return max(self._stage_bytes(stage) for stage in range(self.parallel.pipeline))

    def _stage_bytes(self, stage: int) -> int:
        dense, expert = self._stage_parameters(stage)
        training = self.training
        width = 2 if training.dtype == "bf16" else 4
        # fp32 keeps no separate main parameters; bf16 does, or the half of them that the weights do not hold
        state_width = 8 if training.dtype == "fp32" else 10 if training.reuse_fp32_parameters else 12
        static = (dense + expert) * (width + (2 if training.gradient_dtype == "bf16" else 4))
        replicas = self.parallel.data * self.parallel.context  # ranks of a context have the same weights
        shard = dense // replicas + expert // self.parallel.expert_data
        static += state_width * shard
        # while the optimizer steps, activations are gone, and it has a copy in fp32 of gradients that are not
        copies = 4 * shard if training.gradient_dtype == "bf16" else 0
        return static + max(copies, activation_bytes(self, width, stage))

    # ---- identity -----------------------------------------------------------------------------------

    def resolved(self) -> dict[str, Any]:
        """The whole recipe as plain JSON data, every default written out."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """12 hex digits over what decides the step: all but name, description and late choices left at their defaults.

        Late choices are all kernels, and the keys that sections got after recipes had hashes. A new choice therefore
        changes no recipe's hash.
        """
        content = {key: value for key, value in self.resolved().items() if key not in ("name", "description")}
        content["kernels"] = self.kernels.model_dump(mode="json", exclude_defaults=True)
        if not content["kernels"]:
            del content["kernels"]
        for name, keys in _LATE_KEYS.items():
            fields = type(getattr(self, name)).model_fields
            for key in keys:
                if content[name][key] == fields[key].default:
                    del content[name][key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _check_context(model: Model, parallel: Parallel, training: Training, kernels: Kernels) -> None:
    """Refuse sequences that do not cut into each rank's two chunks, heads that do not spread, and other attentions."""
    context, tensor = parallel.context, parallel.tensor
    divides("2 x parallel.context", 2 * context, "training.sequence_length", training.sequence_length)
    if parallel.sequence_parallel:
        name = "parallel.tensor x parallel.context"
        divides(name, tensor * context, "training.sequence_length", training.sequence_length)
    if parallel.context_exchange == "a2a" and model.num_query_groups // tensor % context:
        raise ValueError(
            f"parallel.context {context} with context_exchange a2a: the {model.num_query_groups // tensor} key/value "
            f"heads of a tensor rank (model.num_query_groups {model.num_query_groups} over parallel.tensor {tensor}) "
            f"do not spread over {context} ranks; set parallel.context_exchange=all_gather"
        )
    if kernels.attention == "te":
        raise ValueError(
            f"kernels.attention te with parallel.context {context}: sequences are split around our own attention only; "
            "set kernels.attention=torch, or parallel.context=1"
        )


def _check_grouped(model: Model, training: Training) -> None:
    """Refuse here what megatron's GroupedMLP and its grouped GEMM would refuse after the ranks have started."""
    remedy = "or kernels.experts=sequential"
    if training.dtype != "bf16":
        raise ValueError(
            f"kernels.experts grouped with training.dtype {training.dtype}: grouped_gemm multiplies bf16 only; "
            f"set training.dtype=bf16, {remedy}"
        )
    if model.activation != "swiglu":
        raise ValueError(
            f"kernels.experts grouped with model.activation {model.activation}: megatron's grouped experts know "
            f"silu and exact GELU, not its tanh form; set model.activation=swiglu, {remedy}"
        )

"""The sections of a recipe, each a table of the TOML file: frozen, and checked as far as each alone can. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """What no one changes once it is made, and which takes no unknown key and no value of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Model(Frozen):
    """Sizes, and the choices in which the two published Grok-1 models differ."""

    num_layers: int = Field(ge=1, le=1024)
    hidden_size: int = Field(ge=1, le=1 << 20)
    ffn_hidden_size: int = Field(ge=1, le=1 << 22)
    num_attention_heads: int = Field(ge=1, le=4096)
    num_query_groups: int = Field(ge=1, le=4096)
    head_dim: int = Field(ge=2, le=4096)
    vocab_size: int = Field(ge=2, le=1 << 24)
    num_experts: int = Field(ge=1, le=4096)
    experts_per_token: int = Field(ge=1, le=64)
    activation: Literal["swiglu", "geglu"]
    attention_logit_cap: float = Field(ge=0.0, description="30 in xAI's model; 0 means no cap")
    attention_multiplier: float = Field(default=0.0, ge=0.0, description="on the scores; 0 means 1 / sqrt(head_dim)")
    tie_embeddings: bool
    router: Literal["topk_then_softmax", "softmax_then_topk"]
    aux_loss_coefficient: float = Field(ge=0.0, le=10.0)
    z_loss_coefficient: float = Field(default=0.0, ge=0.0, le=10.0, description="of the router's logits; 0 means none")
    embedding_multiplier: float = Field(gt=0.0)
    output_multiplier: float = Field(gt=0.0)
    norm_epsilon: float = Field(default=1e-5, gt=0.0)
    rope_base: int = Field(default=10000, ge=1, le=1 << 40)
    init_std: float = Field(default=0.01, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Model:
        divides("model.num_query_groups", self.num_query_groups, "num_attention_heads", self.num_attention_heads)
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"model.experts_per_token {self.experts_per_token} exceeds num_experts {self.num_experts}; "
                "choose at most that many"
            )
        if self.experts_per_token == 1 and self.router == "topk_then_softmax":
            raise ValueError(
                "model.experts_per_token 1 with router topk_then_softmax: a softmax of one score is 1, so that the "
                "router would learn nothing, and megatron refuses it; set model.router=softmax_then_topk"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim {self.head_dim} is odd; rotary embedding needs an even one")
        return self

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, which is also that of all value heads."""
        return self.num_query_groups * self.head_dim


class Parallel(Frozen):
    """How many ways each axis is split, over how many ranks."""

    world_size: int = Field(ge=1, le=1 << 16)
    tensor: int = Field(default=1, ge=1, le=1 << 16)
    context: int = Field(default=1, ge=1, le=1 << 16, description="how many ways a sequence is split, attention too")
    context_exchange: Literal["all_gather", "a2a"] = "all_gather"  # of keys and values, or sequence for heads
    pipeline: int = Field(default=1, ge=1, le=1 << 16)
    virtual_pipeline: int = Field(default=1, ge=1, le=1024, description="model chunks of each stage, interleaved")
    first_stage_layers: int = Field(default=0, ge=0, le=1024, description="layers of the first stage; 0: as others")
    last_stage_layers: int = Field(default=0, ge=0, le=1024, description="layers of the last stage; 0: as others")
    expert: int = Field(default=1, ge=1, le=1 << 16)
    expert_tensor: int = Field(default=1, ge=1, le=1 << 16, description="how many ways one expert's matrices are split")
    sequence_parallel: bool = True
    dispatcher: Literal["allgather", "alltoall"] = "alltoall"
    order: Literal["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"] = "tp-cp-ep-dp-pp"  # which axis' neighbours have adjacent ranks

    @model_validator(mode="after")
    def _check(self) -> Parallel:
        dense = self.tensor * self.context * self.pipeline
        divides(
            "tensor x context x pipeline" if self.context > 1 else "tensor x pipeline",
            dense,
            "parallel.world_size",
            self.world_size,
        )
        divides(
            "expert_tensor x expert x pipeline",
            self.expert_tensor * self.expert * self.pipeline,
            "parallel.world_size",
            self.world_size,
        )
        if self.tensor > 1 and self.expert_tensor == 1 and self.expert == 1:
            raise ValueError(
                f"parallel.expert_tensor 1 and expert 1 with tensor {self.tensor}: megatron-core 0.12 then sums the "
                f"experts' outputs over the tensor ranks; set parallel.expert_tensor={self.tensor}, or expert above 1"
            )
        if self.tensor > 1 and not self.sequence_parallel:
            raise ValueError(
                f"parallel.sequence_parallel is false with tensor {self.tensor}: mixture-of-experts training "
                "under tensor parallelism needs it; set parallel.sequence_parallel=true"
            )
        return self

    @property
    def data(self) -> int:
        """Data-parallel replicas of the dense parameters."""
        return self.world_size // (self.tensor * self.context * self.pipeline)

    @property
    def expert_data(self) -> int:
        """Data-parallel replicas of each expert."""
        return self.world_size // (self.expert_tensor * self.expert * self.pipeline)

    @property
    def has_experts_apart(self) -> bool:
        """Whether experts have other replicas than the dense weights, and so an optimizer of their own."""
        return self.expert > 1 or self.expert_tensor != self.tensor


class Training(Frozen):
    """Batch, precision, optimizer and schedule."""

    sequence_length: int = Field(ge=1, le=1 << 24)
    micro_batch: int = Field(default=1, ge=1, le=1 << 20)
    global_batch: int = Field(ge=1, le=1 << 20)
    dtype: Literal["fp32", "bf16"]
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    router_dtype: Literal["fp32", "model"] = "fp32"
    reuse_fp32_parameters: bool = False
    learning_rate: float = Field(gt=0.0)
    min_learning_rate: float = Field(ge=0.0)
    warmup_steps: int = Field(ge=0, le=1 << 40)
    decay_steps: int = Field(ge=1, le=1 << 40)
    weight_decay: float = Field(ge=0.0)
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    adam_beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    adam_epsilon: float = Field(default=1e-8, gt=0.0)
    clip_grad: float = Field(ge=0.0, description="0 means no clipping")
    recompute: Literal["none", "full", "selective"] = "none"
    recompute_method: Literal["uniform", "block"] = "uniform"  # of full: every N layers together, or the first N
    recompute_layers: int = Field(default=1, ge=1, le=1024, description="the N of recompute_method")
    recompute_modules: list[Literal["core_attn", "moe_act", "layernorm", "moe"]] = Field(default=["core_attn"])
    expert_capacity_factor: float = Field(default=0.0, ge=0.0, le=1024.0, description="0: no token is dropped")
    expert_drop_policy: Literal["probs", "position"] = "probs"
    pad_to_capacity: bool = False
    routing: Literal["learned", "random"] = "learned"  # random: balanced by force, for measurements alone
    seed: int = Field(default=1234, ge=0, lt=1 << 31)

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.warmup_steps >= self.decay_steps:
            raise ValueError(
                f"training.warmup_steps {self.warmup_steps} is not below decay_steps {self.decay_steps}; shorten it"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"training.min_learning_rate {self.min_learning_rate} exceeds learning_rate {self.learning_rate}"
            )
        if self.dtype != "bf16":
            _check_fp32_alone(self)
        return self


class Data(Frozen):
    """Which tokenizer made the tokens, and how documents are split."""

    tokenizer_type: Literal["PretrainedFromHF", "SentencePiece"] = "SentencePiece"
    split: str = Field(default="99990,8,2", max_length=64)

    @model_validator(mode="after")
    def _check(self) -> Data:
        parts = self.split.split(",")
        try:
            weights = [float(part) for part in parts]
        except ValueError:
            weights = []
        if len(weights) != 3 or min(weights, default=-1) < 0 or not 0 < weights[0] <= sum(weights) < 1e12:
            raise ValueError(
                f"data.split {self.split!r} is not three weights train,valid,test with a share for training; "
                'write it like "99990,8,2"'
            )
        return self

    @property
    def has_sample_corpus(self) -> bool:
        """Whether this tokenizer reads the corpus that every Python ships: without it a job needs the user's data."""
        return self.tokenizer_type == "SentencePiece"


class Kernels(Frozen):
    """Which implementation computes a part of the step. The maths is the same; time and memory are not.

    The defaults are megatron's own parts.
    """

    experts: Literal["sequential", "fused", "grouped", "te_grouped"] = "sequential"
    dispatch: Literal["megatron", "merged", "te"] = "megatron"
    cross_entropy: Literal["megatron", "fused", "te"] = "megatron"
    attention: Literal["torch", "te"] = "torch"
    linear: Literal["megatron", "fused", "mc2"] = "megatron"
    norm: Literal["torch", "npu"] = "torch"
    gradient_reduction: Literal["at_end", "overlapped"] = "at_end"
    param_gather: Literal["at_end", "overlapped"] = "at_end"

    def of_transformer_engine(self) -> list[tuple[str, str]]:
        """(choice, remedy) of each that Transformer Engine computes: ("kernels.attention te", what to set instead)."""
        return [
            (f"kernels.{key} {value}", f"set kernels.{key}={type(self).model_fields[key].default}")
            for key in ("experts", "dispatch", "cross_entropy", "attention")
            if (value := getattr(self, key)) in ("te", "te_grouped")
        ]


def divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    """Refuse a value that is not a multiple of the divisor; both have the names that a user knows."""
    if value % divisor:
        raise ValueError(
            f"{name} {value} is not a multiple of {divisor_name} {divisor}; "
            f"change one of them (the nearest multiple is {max(1, round(value / divisor)) * divisor})"
        )


def _check_fp32_alone(training: Training) -> None:
    """Refuse what only bf16 training has: gradients of another dtype than the weights, and fp32 copies of them."""
    chosen = {
        "gradient_dtype=bf16": training.gradient_dtype == "bf16",
        "reuse_fp32_parameters=true": training.reuse_fp32_parameters,
    }
    for choice, is_chosen in chosen.items():
        if is_chosen:
            raise ValueError(f"training.{choice} with dtype {training.dtype}: bf16 training alone has it; leave it out")

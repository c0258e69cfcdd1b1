"""The model: Grok-1 as megatron's GPT with the recipe's choices, wrapped for data parallelism."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.device.kind import device_kind
from grok1.distributed.groups import Ranks, tensor_group
from grok1.kernels import transformer_engine
from grok1.kernels.cross_entropy import cross_entropy
from grok1.kernels.linear import linear_layers
from grok1.megatron.door import (
    CONFIG,
    DistributedDataParallel,
    DistributedDataParallelConfig,
    Float16Module,
    GPTModel,
    TransformerBlockSubmodules,
    TransformerConfig,
    get_num_layers_to_build,
)
from grok1.megatron.instances import (
    change_class,
    disable_sequence_parallelism,
    mark_experts_apart,
    mark_gradients_awaited,
    skip_single_rank_collectives,
)
from grok1.megatron.protocols import DdpModel
from grok1.model.layers import layer_spec, norm_class
from grok1.model.moe import activation
from grok1.weights.sharding import initialise


class Grok(GPTModel):
    """megatron's GPT with Grok-1's two multipliers: on the embedding and on the logits."""

    def __init__(
        self, recipe: Recipe, config: TransformerConfig, ranks: Ranks, core_attention: type | None = None
    ) -> None:
        self.recipe_model = recipe.model
        self._kernels = recipe.kernels
        self.kept_logits: list[Tensor] | None = None  # a list set here receives each micro-batch's [S, B, vocab/TP]
        layers = [layer_spec(recipe.model, recipe.kernels, core_attention)] * get_num_layers_to_build(config)
        super().__init__(
            config,
            TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm_class(recipe.kernels)),
            vocab_size=recipe.model.vocab_size,
            max_sequence_length=recipe.training.sequence_length,
            pre_process=ranks.is_first_stage,
            post_process=ranks.is_last_stage,
            share_embeddings_and_output_weights=recipe.model.tie_embeddings,
            position_embedding_type="rope",
            rotary_base=recipe.model.rope_base,
        )
        if self.post_process:  # megatron makes the layer itself; ours has the same state
            column, _ = linear_layers(recipe.kernels)
            change_class(self.output_layer, column)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: object
    ) -> Tensor:
        """Per-token losses [B, S] given labels, else logits [B, S, vocab/TP]; hidden states between stages."""
        if attention_mask is not None and self._kernels.attention == "te":
            raise ValueError(
                "kernels.attention te with pads among the tokens: Transformer Engine's causal attention hides no keys; "
                "set kernels.attention=torch"
            )
        embedded = None
        if self.pre_process:
            embedded = self.embedding(input_ids=input_ids, position_ids=position_ids)
            embedded = embedded * self.recipe_model.embedding_multiplier
        output: Tensor = super().forward(input_ids, position_ids, attention_mask, decoder_input=embedded, **kwargs)
        if self.post_process and kwargs.get("labels") is None:
            output = output * self.recipe_model.output_multiplier
        return output

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Vocabulary-parallel cross-entropy of the scaled logits, [B, S]."""
        multiplier = self.recipe_model.output_multiplier
        if self.kept_logits is not None:
            self.kept_logits.append(logits.detach() * multiplier)
        if self._kernels.cross_entropy != "megatron":
            of_logits = cross_entropy if self._kernels.cross_entropy == "fused" else transformer_engine.cross_entropy
            return of_logits(logits, labels.t(), multiplier, tensor_group()).t().contiguous()
        loss: Tensor = super().compute_language_model_loss(labels, logits * multiplier)
        return loss


def transformer_config(recipe: Recipe) -> TransformerConfig:
    """The recipe in megatron's words. The one place that knows both."""
    transformer_engine.check_present(recipe.kernels)
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    dtype = torch.bfloat16 if training.dtype == "bf16" else torch.float32
    recompute: dict[str, str | int] = {}
    if training.recompute == "full":
        recompute = {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_dim,
        softmax_scale=model.attention_multiplier or None,
        num_moe_experts=model.num_experts,
        moe_router_topk=model.experts_per_token,
        moe_router_pre_softmax=model.router == "softmax_then_topk",
        moe_router_load_balancing_type="aux_loss" if model.aux_loss_coefficient else "none",
        moe_aux_loss_coeff=model.aux_loss_coefficient,
        moe_router_dtype="fp32" if training.router_dtype == "fp32" else None,
        moe_token_dispatcher_type=parallel.dispatcher,
        moe_ffn_hidden_size=model.ffn_hidden_size,
        moe_grouped_gemm=recipe.kernels.experts in ("grouped", "te_grouped"),
        moe_permute_fusion=recipe.kernels.dispatch == "te",
        activation_func=activation(model),
        gated_linear_unit=True,
        add_bias_linear=False,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        init_method_std=model.init_std,
        # grok1.weights.sharding sets the values, the same in every layout, but only here does megatron mark which
        # parameters are split; unmarked ones count once too few times in the gradient norm
        perform_initialization=True,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor > 1,
        bf16=training.dtype == "bf16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        **recompute,
        **CONFIG,
    )


def build_model(
    recipe: Recipe,
    ranks: Ranks,
    with_values: bool = True,
    *,
    stock: bool = False,
    core_attention: type | None = None,
) -> DdpModel:
    """This rank's part of the model on its device, initialised unless told otherwise, in data-parallel buffers.

    For comparisons: `stock` leaves megatron's buffers as megatron makes them, and `core_attention` is a megatron
    module to use in place of ours.
    """
    config = transformer_config(recipe)
    model: torch.nn.Module = Grok(recipe, config, ranks, core_attention)
    if recipe.parallel.has_experts_apart:
        mark_experts_apart(model)
    if with_values:
        initialise(model, recipe, ranks)
    if device_kind() != "cpu":
        model.cuda(torch.cuda.current_device())
    if recipe.training.dtype == "bf16":
        model = Float16Module(config, model)
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=recipe.training.gradient_dtype == "fp32",
        overlap_grad_reduce=recipe.kernels.gradient_reduction == "overlapped",
        use_distributed_optimizer=True,
        check_for_nan_in_grad=False,  # a loss that is not finite voids the run, with a better message
    )
    wrapped: DdpModel = DistributedDataParallel(config=config, ddp_config=ddp, module=model)
    if not stock:
        skip_single_rank_collectives(wrapped)
    if ddp.overlap_grad_reduce:
        mark_gradients_awaited(wrapped)
    return wrapped


def build_for_inference(recipe: Recipe, ranks: Ranks) -> torch.nn.Module:
    """This rank's part of the model on its device, for loading weights and decoding; without gradients.

    Sequence parallelism is off, as a decoding step is one token long.
    """
    recipe = with_own_attention(recipe)
    config = transformer_config(recipe)
    disable_sequence_parallelism(config)
    model: torch.nn.Module = Grok(recipe, config, ranks)
    if device_kind() != "cpu":
        model.cuda(torch.cuda.current_device())
    if recipe.training.dtype == "bf16":
        model = Float16Module(config, model)
    return model.eval().requires_grad_(False)


def with_own_attention(recipe: Recipe) -> Recipe:
    """The same model with our own attention on every device, whose queries are at the last of the keys' positions.

    MindSpeed's kernel and Transformer Engine's take them to be at the first.
    """
    multiplier = recipe.model.attention_multiplier or 1.0 / math.sqrt(recipe.model.head_dim)
    sizes = recipe.model.model_copy(update={"attention_multiplier": multiplier})
    kernels = recipe.kernels.model_copy(update={"attention": "torch"})
    return recipe.model_copy(update={"model": sizes, "kernels": kernels})


def unwrapped(model: torch.nn.Module) -> Grok:
    """The bare model inside its data-parallel and dtype wrappers."""
    while not isinstance(model, Grok):
        model = cast(torch.nn.Module, model.module)
    return model


def gather_gradients(model: DdpModel) -> None:
    """Make each parameter's `main_grad` whole after a step's reduction, which leaves each replica its own share."""
    for buffer in model.buffers + model.expert_parallel_buffers:
        group = buffer.data_parallel_group
        for bucket in buffer.buckets:
            share = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
            dist.all_gather_into_tensor(bucket.grad_data, share, group=group)

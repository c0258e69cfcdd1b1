"""The model: Grok-1 as megatron's GPT with the recipe's choices, wrapped for data parallelism."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.config.sections import Training
from grok1.config.stages import stage_layers
from grok1.device.kind import device_kind
from grok1.distributed.groups import Ranks, tensor_group
from grok1.kernels import transformer_engine
from grok1.kernels.cross_entropy import cross_entropy
from grok1.kernels.experts import FusedExperts
from grok1.kernels.linear import linear_layers
from grok1.megatron.door import (
    CONFIG,
    SCALES_AUX_LOSS_BY_CONTEXT,
    DistributedDataParallel,
    DistributedDataParallelConfig,
    Float16Module,
    GPTModel,
    TransformerBlockSubmodules,
    TransformerConfig,
    chunk_words,
    get_num_layers_to_build,
    turn_of_chunk,
)
from grok1.megatron.instances import (
    await_weights_of_children,
    change_class,
    disable_sequence_parallelism,
    mark_experts_apart,
    mark_gradients_awaited,
    skip_single_rank_collectives,
)
from grok1.model.layers import layer_spec, norm_class
from grok1.model.moe import activation
from grok1.weights.chunks import Chunks, chunks_of
from grok1.weights.sharding import initialise


class Grok(GPTModel):
    """megatron's GPT with Grok-1's two multipliers: on the embedding and on the logits."""

    def __init__(
        self,
        recipe: Recipe,
        config: TransformerConfig,
        ranks: Ranks,
        core_attention: type | None = None,
        chunk: int = 0,
    ) -> None:
        self.recipe_model = recipe.model
        self._kernels = recipe.kernels
        self.kept_logits: list[Tensor] | None = None  # a list set here receives each micro-batch's [S, B, vocab/TP]
        layers = [layer_spec(recipe, core_attention)] * get_num_layers_to_build(config)
        super().__init__(
            config,
            TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm_class(recipe.kernels)),
            vocab_size=recipe.model.vocab_size,
            max_sequence_length=recipe.training.sequence_length,
            pre_process=ranks.is_first_stage and chunk == 0,
            post_process=ranks.is_last_stage and chunk == recipe.parallel.virtual_pipeline - 1,
            share_embeddings_and_output_weights=recipe.model.tie_embeddings,
            position_embedding_type="rope",
            rotary_base=recipe.model.rope_base,
            **(chunk_words(chunk) if recipe.parallel.virtual_pipeline > 1 else {}),
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
    # megatron averages gradients over the context's ranks too, as if each had a whole loss
    shares = 1 if SCALES_AUX_LOSS_BY_CONTEXT else parallel.context
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
        moe_aux_loss_coeff=model.aux_loss_coefficient * shares,
        moe_z_loss_coeff=model.z_loss_coefficient * shares or None,
        moe_router_dtype="fp32" if training.router_dtype == "fp32" else None,
        moe_expert_capacity_factor=training.expert_capacity_factor or None,
        moe_token_drop_policy=training.expert_drop_policy,
        moe_pad_expert_input_to_capacity=training.pad_to_capacity,
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
        context_parallel_size=parallel.context,
        cp_comm_type=parallel.context_exchange,
        pipeline_model_parallel_size=parallel.pipeline,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor > 1,
        bf16=training.dtype == "bf16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        **_stages(recipe),
        **_recompute(training),
        **CONFIG,
    )


def _stages(recipe: Recipe) -> dict[str, int | bool | None]:
    """How layers lie in stages and chunks, in megatron's words.

    Of two stages megatron-core 0.12 takes the first's layers alone, and of more it misplaces the chunks of a pipeline
    whose last stage alone is given: so it gets both.
    """
    parallel = recipe.parallel
    words: dict[str, int | bool | None] = {}
    if parallel.first_stage_layers or parallel.last_stage_layers:
        layers = stage_layers(recipe.model.num_layers, parallel)
        words["num_layers_in_first_pipeline_stage"] = layers[0]
        words["num_layers_in_last_pipeline_stage"] = layers[-1] if len(layers) > 2 else None
    if parallel.virtual_pipeline > 1:
        words["virtual_pipeline_model_parallel_size"] = parallel.virtual_pipeline
        # sent in a batch, two stages would take each other's activations for gradients
        words["batch_p2p_comm"] = False
    return words


def _recompute(training: Training) -> dict[str, object]:
    """What of recompute is megatron's to do; GrokLayer does the rest."""
    if training.recompute == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": training.recompute_method,
            "recompute_num_layers": training.recompute_layers,
        }
    of_megatron = [module for module in training.recompute_modules if module in ("core_attn", "moe_act")]
    if training.recompute == "none" or not of_megatron:
        return {}
    return {"recompute_granularity": "selective", "recompute_modules": of_megatron}


def build_model(
    recipe: Recipe,
    ranks: Ranks,
    with_values: bool = True,
    *,
    stock: bool = False,
    core_attention: type | None = None,
) -> Chunks:
    """This rank's part of the model on its device, initialised unless told otherwise, in data-parallel buffers.

    For comparisons: `stock` leaves megatron's buffers as megatron makes them, and `core_attention` is a megatron
    module to use in place of ours.
    """
    config, parallel = transformer_config(recipe), recipe.parallel
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=recipe.training.gradient_dtype == "fp32",
        overlap_grad_reduce=recipe.kernels.gradient_reduction == "overlapped",
        overlap_param_gather=recipe.kernels.param_gather == "overlapped",
        use_distributed_optimizer=True,
        check_for_nan_in_grad=False,  # a loss that is not finite voids the run, with a better message
    )
    wrapped = []
    for number in range(parallel.virtual_pipeline):
        bare = _build_chunk(recipe, config, ranks, with_values, core_attention, number)
        # as megatron's own trainer has it, only the first chunk is cut into buckets
        wrapped.append(DistributedDataParallel(config, ddp, bare, disable_bucketing=number > 0))
    chunks = Chunks(wrapped)
    for chunk in chunks:
        if not stock:
            skip_single_rank_collectives(chunk)
        if ddp.overlap_grad_reduce:
            mark_gradients_awaited(chunk)
        if ddp.overlap_param_gather:
            await_weights_of_children(chunk, FusedExperts)
    return chunks


def _build_chunk(
    recipe: Recipe,
    config: TransformerConfig,
    ranks: Ranks,
    with_values: bool,
    core_attention: type | None,
    number: int,
) -> torch.nn.Module:
    with turn_of_chunk(number):
        model: torch.nn.Module = Grok(recipe, config, ranks, core_attention, number)
    if recipe.parallel.has_experts_apart:
        mark_experts_apart(model)
    if with_values:
        initialise(model, recipe, ranks, number)
    if device_kind() != "cpu":
        model.cuda(torch.cuda.current_device())
    return Float16Module(config, model) if recipe.training.dtype == "bf16" else model


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
    """The bare model inside its data-parallel and dtype wrappers; of several chunks, the last."""
    model = chunks_of(model)[-1]
    while not isinstance(model, Grok):
        model = cast(torch.nn.Module, model.module)
    return model


def gather_gradients(model: Chunks) -> None:
    """Make each parameter's `main_grad` whole after a step's reduction, which leaves each replica its own share."""
    for buffer in model.gradient_buffers:
        group = buffer.data_parallel_group
        for bucket in buffer.buckets:
            share = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
            dist.all_gather_into_tensor(bucket.grad_data, share, group=group)

"""A step of a decoder on one rank whose others do not exist, counted by the ledger's meter. megatron-core 0.12.

The model is megatron's own, from its own layer specs, but for three parts. Its norm of plain torch refuses sequence
parallelism, so ours stands there. Its plain attention does not know that values may be narrower than keys. And latent
widths are computed whole on each rank, as from 0.14 on with Transformer Engine; megatron's attention then takes the way
that it has for them.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.ledger.meter import Call, Meter
from grok1.config.load import load_recipe
from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import FAKE_URL, Rendezvous
from grok1.megatron.capacity import first_tokens
from grok1.megatron.door import DotProductAttention, GPTModel, MoELayer, TransformerConfig
from grok1.model.layers import RMSNorm
from grok1.training.planned_routing import Routing
from tests.bench.plan.decoders import MICRO_BATCH, SEQUENCE, VOCABULARY, Counted, Decoder

_COMPONENTS = {  # the first that a module's path holds
    "output_layer": "head",
    "eh_proj": "later tokens",
    "core_attention": "attention core",
    "self_attention": "attention projections",
    "router": "router",
    "shared_experts": "shared experts",
    ".experts": "experts",
    ".mlp": "mlp",
}
_ONE_NAME = {"all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}  # of unequal parts
_SETTINGS: dict[str, Any] = {
    "gated_linear_unit": True, "activation_func": torch.nn.functional.silu, "add_bias_linear": False,
    "normalization": "RMSNorm", "hidden_dropout": 0.0, "attention_dropout": 0.0, "bias_activation_fusion": False,
    "bias_dropout_fusion": False, "masked_softmax_fusion": False, "gradient_accumulation_fusion": False,
    "persist_layer_norm": False, "moe_router_load_balancing_type": "none", "bf16": True,
    "params_dtype": torch.bfloat16, "pipeline_dtype": torch.bfloat16, "use_cpu_initialization": True,
}  # fmt: skip


class _Phase:
    current = "forward"


class _Meter(Meter):
    """Keeps the sizes of products too."""

    def __init__(self, phase: Any) -> None:
        super().__init__(phase)
        self.products: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
        self.attention: Counter[str] = Counter()

    def heard(self, call: Call) -> None:
        if not call.figures[0]:
            return
        component = next(name for part, name in _COMPONENTS.items() if part in call.module)
        if component == "attention core":
            self.attention[call.phase] += call.figures[0]
            return
        assert call.func is torch.ops.aten.mm.default, call.func
        first, second = call.args
        self.products[component, call.phase, tuple(sorted((*first.shape, second.shape[1])))] += 1


class _Attention(DotProductAttention):
    """megatron's plain attention, told how wide keys and values are."""

    def __init__(self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if v_channels:
            self.hidden_size_per_partition = v_channels * self.num_attention_heads_per_partition


class _Whole(torch.nn.Linear):
    """The same weight on each rank, for its own shard of the tokens."""

    def __init__(self, size_in: int, size_out: int, *, config: Any, **_unused: Any) -> None:
        super().__init__(size_in, size_out, bias=False, dtype=config.params_dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # megatron's layers give a bias too
        return super().forward(x), None


def counted(decoder: Decoder) -> Counted:
    """What its rank does in one micro-batch: experts get equally many tokens."""
    parallel = load_recipe("grok1-nano").parallel.model_copy(
        update={"world_size": decoder.world_size, "context": 1, "virtual_pipeline": 1}
        | {name: getattr(decoder, name) for name in ("tensor", "pipeline", "expert", "expert_tensor")}
    )
    size = decoder.world_size
    rank = decoder.stage * (size // decoder.pipeline)
    with joined(Rendezvous(FAKE_URL, rank, size, local_rank=0, ranks_per_node=size), parallel, seed=1):
        model = _model(decoder)
        meter = _passed(decoder, model)
    matrices = {name: each.numel() for name, each in model.named_parameters() if each.dim() > 1}
    experts = sum(number for name, number in matrices.items() if ".experts." in name)
    found = Counted(meter.products, meter.attention, Counter(), Counter(), (sum(matrices.values()) - experts, experts))
    for (phase, group, operation, dtype), moved in meter.counts.collectives.items():
        key = phase, group, _ONE_NAME.get(operation, operation), dtype
        found.calls[key] += moved.calls
        found.bytes[key] += moved.bytes
    return found


def _passed(decoder: Decoder, model: Any) -> _Meter:
    phase = _Phase()
    meter = _Meter(phase)
    ids = torch.arange(SEQUENCE).expand(MICRO_BATCH, -1)
    mask = torch.ones(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
    if not decoder.is_first:
        shape = SEQUENCE // decoder.tensor, MICRO_BATCH, model.config.hidden_size
        model.set_input_tensor(torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True))
    with meter:
        meter.watch(model)
        loss = model(ids, ids, mask, labels=ids if decoder.is_last else None).float().sum()
        phase.current = "backward"
        loss.backward()
    assert not meter.counts.unknown
    return meter


def _model(decoder: Decoder) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
    from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    MTPLossLoggingHelper.tracker.clear()  # it keeps the losses of a model before this one
    of_latent = decoder.words.get("multi_latent_attention")
    predicting = {"mtp_num_layers": decoder.predicting, "mtp_loss_scaling_factor": 0.1} if decoder.predicting else {}
    config = (MLATransformerConfig if of_latent else TransformerConfig)(
        **_SETTINGS, **decoder.words, **predicting, tensor_model_parallel_size=decoder.tensor,
        sequence_parallel=decoder.tensor > 1, expert_model_parallel_size=decoder.expert,
        expert_tensor_parallel_size=decoder.expert_tensor, pipeline_model_parallel_size=decoder.pipeline,
    )  # fmt: skip
    spec = _fitted(get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="RMSNorm"))
    later = get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False) if decoder.predicting else None
    model = GPTModel(
        config, spec, vocab_size=VOCABULARY, max_sequence_length=SEQUENCE, pre_process=decoder.is_first,
        post_process=decoder.is_last, position_embedding_type="rope", mtp_block_spec=_fitted(later),
    )  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, MoELayer):
            layer.router.register_forward_hook(partial(_evenly, config))
    return model


def _evenly(config: Any, _router: Any, _inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    probs_TE, map_TE = output
    tokens, chosen, factor = len(map_TE), config.moe_router_topk, config.moe_expert_capacity_factor
    map_TE = Routing.balanced(config.num_moe_experts).routing_map(tokens, chosen)
    if factor:
        map_TE = first_tokens(map_TE, math.ceil(tokens * chosen / config.num_moe_experts * factor), True)
    return probs_TE, map_TE


def _fitted(spec: Any) -> Any:
    """A spec with the three parts in place of megatron's, wherever they stand in it."""
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    if isinstance(spec, type):
        parts: dict[type, type] = {WrappedTorchNorm: RMSNorm, DotProductAttention: _Attention}
        return parts.get(spec, spec)
    if isinstance(spec, list):
        return [_fitted(each) for each in spec]
    if not is_dataclass(spec):
        return spec
    fitted = {each.name: _fitted(getattr(spec, each.name)) for each in fields(spec)}
    latent = {name: _Whole for name in ("linear_q_down_proj", "linear_kv_down_proj") if name in fitted}
    return replace(spec, **fitted | latent)  # type: ignore[type-var]  # a dataclass, which is_dataclass saw

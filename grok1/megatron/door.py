"""The one door to megatron.core: makes the device ready first, then hands on the few names we use.

What differs between megatron's lines comes from the module of the line that is installed.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from grok1.device import seam
from grok1.device.kind import device_kind, installed
from grok1.megatron import patches
from grok1.megatron.installed import broken_packages_named, megatron_line

megatron_line(device_kind())  # before MindSpeed patches a megatron that is not its own
seam.activate()

with broken_packages_named(), patches.quiet_imports(), patches.compile_when_called():
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder
    from megatron.core.datasets.utils import Split
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.inference.contexts import StaticInferenceContext
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.module import Float16Module, MegatronModule
    from megatron.core.transformer.moe.experts import SequentialMLP, TEGroupedMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.moe.router import TopKRouter
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )
    from megatron.core.transformer.transformer_config import TransformerConfig
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
    from megatron.core.utils import get_model_config

    te: ModuleType | None = None  # megatron's wrappers of Transformer Engine, where that is installed
    if device_kind() != "npu" and installed("transformer_engine"):  # on an NPU it is MindSpeed's dummy
        te = importlib.import_module("megatron.core.extensions.transformer_engine")

    if megatron_line() == "0.12":
        from grok1.megatron import line_0_12 as line
    elif megatron_line() == "0.16":
        from grok1.megatron import line_0_16 as line  # type: ignore[no-redef]  # the same names of another line
    else:
        from grok1.megatron import line_0_19 as line  # type: ignore[no-redef]  # and of this one

CONFIG, PATCHES = line.CONFIG, line.PATCHES
SCALES_AUX_LOSS_BY_CONTEXT = line.SCALES_AUX_LOSS_BY_CONTEXT
GroupedMLP, grouped_gemm_util = line.GroupedMLP, line.grouped_gemm_util
WholeDispatcher = line.WholeDispatcher
aux_loss_tracker, clear_aux_losses_tracker = line.aux_loss_tracker, line.clear_aux_losses_tracker
optimizer_state, whole_job_groups = line.optimizer_state, line.whole_job_groups
chunk_words, turn_of_chunk = line.chunk_words, line.turn_of_chunk

for patch in PATCHES:
    patch()

__all__ = [
    "CONFIG",
    "SCALES_AUX_LOSS_BY_CONTEXT",
    "AttnMaskType",
    "ColumnParallelLinear",
    "DType",
    "DistributedDataParallel",
    "DistributedDataParallelConfig",
    "DotProductAttention",
    "Float16Module",
    "GPTDataset",
    "GPTDatasetConfig",
    "GPTModel",
    "GroupedMLP",
    "IdentityOp",
    "IndexedDataset",
    "IndexedDatasetBuilder",
    "MLPSubmodules",
    "MegatronModule",
    "MoELayer",
    "MoESubmodules",
    "ModuleSpec",
    "OptimizerConfig",
    "OptimizerParamScheduler",
    "RowParallelLinear",
    "SelfAttention",
    "SelfAttentionSubmodules",
    "SequentialMLP",
    "Split",
    "StaticInferenceContext",
    "TEGroupedMLP",
    "TopKRouter",
    "TransformerBlockSubmodules",
    "TransformerConfig",
    "TransformerLayer",
    "TransformerLayerSubmodules",
    "WholeDispatcher",
    "aux_loss_tracker",
    "chunk_words",
    "clear_aux_losses_tracker",
    "dist_checkpointing",
    "finalize_model_grads",
    "get_forward_backward_func",
    "get_megatron_optimizer",
    "get_model_config",
    "get_num_layers_to_build",
    "grouped_gemm_util",
    "optimizer_state",
    "parallel_state",
    "te",
    "tensor_parallel",
    "turn_of_chunk",
    "whole_job_groups",
]

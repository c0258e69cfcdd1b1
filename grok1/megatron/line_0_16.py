"""What is of megatron-core's line 0.16 alone: its patches, and where it calls what another line calls otherwise.

line_0_12.py and line_0_19.py have the same names. `grok1.megatron.door` takes one of them, by what is installed.
"""

from __future__ import annotations

import functools

from megatron.core.transformer.moe import grouped_gemm_util
from megatron.core.transformer.moe.experts import GroupedMLP
from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker, get_moe_layer_wise_logging_tracker

from grok1.megatron import patches
from grok1.megatron.since_0_16 import (
    WholeDispatcher,
    chunk_words,
    optimizer_state,
    turn_of_chunk,
    whole_job_groups,
)

__all__ = [
    "CONFIG",
    "PATCHES",
    "SCALES_AUX_LOSS_BY_CONTEXT",
    "GroupedMLP",
    "WholeDispatcher",
    "aux_loss_tracker",
    "chunk_words",
    "clear_aux_losses_tracker",
    "grouped_gemm_util",
    "optimizer_state",
    "turn_of_chunk",
    "whole_job_groups",
]

PATCHES = (
    patches.keep_results_in_this_process,
    patches.restore_only_tensors_of_the_checkpoint,
    patches.run_nothing_that_a_checkpoint_holds,
    patches.name_the_gemm_that_is_missing,
    patches.drop_the_last_tokens_of_a_map,
    patches.forget_the_job_that_is_left,
    functools.partial(patches.forget_the_routers_sums, lambda: get_moe_layer_wise_logging_tracker().clear()),
    patches.recompute_outputs_without_fp8,
    patches.keep_torchs_generator,
    patches.move_splits_from_a_cpu,
    patches.leave_the_routers_bias_uncompiled,
)

SCALES_AUX_LOSS_BY_CONTEXT = True  # for the backward, as it does the loss

# of TransformerConfig, beside what every line knows: its own default makes it warn that the default is deprecated
CONFIG: dict[str, object] = {"cuda_graph_scope": []}


def aux_loss_tracker() -> dict[str, object]:
    """megatron's running sums of the routers' auxiliary losses: name -> {"values": tensor [layers], ...}."""
    tracker: dict[str, object] = get_moe_layer_wise_logging_tracker()
    return tracker

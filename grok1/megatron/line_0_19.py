"""What is of megatron-core's line 0.19 alone: its patches, and where it calls what another line calls otherwise.

line_0_12.py and line_0_16.py have the same names. `grok1.megatron.door` takes one of them, by what is installed.
"""

from __future__ import annotations

import functools

import megatron.core.models.mimo.model.base  # noqa: F401  # get_megatron_optimizer would, in each rank
from megatron.core.transformer.moe.moe_logging import destroy_moe_metrics_tracker, get_moe_metrics_tracker

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
    patches.say_why_a_piece_was_not_written,
    patches.restore_only_tensors_of_the_checkpoint,
    patches.run_nothing_that_a_piece_holds,
    patches.ask_for_no_rank_outside_a_job,
    patches.drop_the_last_tokens_of_a_map,
    patches.forget_the_job_that_is_left,
    functools.partial(patches.forget_the_routers_sums, destroy_moe_metrics_tracker),
    patches.recompute_outputs_without_fp8,
    patches.keep_torchs_generator,
    patches.move_splits_from_a_cpu,
    patches.leave_the_routers_bias_uncompiled,
)

SCALES_AUX_LOSS_BY_CONTEXT = True  # for the backward, as it does the loss

# of TransformerConfig, beside what every line knows: its own default makes it warn that the default is deprecated
CONFIG: dict[str, object] = {"cuda_graph_modules": []}

GroupedMLP = None  # gone, and its grouped GEMM with it
grouped_gemm_util = None


def aux_loss_tracker() -> dict[str, object]:
    """megatron's running sums of the routers' auxiliary losses: name -> {"values": tensor [layers]}."""
    return {name: {"values": each.values} for name, each in get_moe_metrics_tracker().metrics.items()}


def clear_aux_losses_tracker() -> None:
    """Set the running sums to 0."""
    get_moe_metrics_tracker().clear()

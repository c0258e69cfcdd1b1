"""What is of megatron-core's line 0.12 alone: its patches, and where it calls what another line calls otherwise.

line_0_16.py and line_0_19.py have the same names. `grok1.megatron.door` takes one of them, by what is installed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from megatron.core import parallel_state
from megatron.core.transformer.moe import grouped_gemm_util
from megatron.core.transformer.moe.experts import GroupedMLP
from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from torch import Tensor

from grok1.megatron import patches
from grok1.megatron.protocols import MegatronOptimizer, StateDict

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
    patches.restore_numpy_product,
    patches.keep_results_in_this_process,
    patches.save_in_this_process,
    patches.bind_serialization_format,
    patches.restore_only_tensors_of_the_checkpoint,
    patches.keep_what_is_added_to_metadata,
    patches.run_nothing_that_a_checkpoint_holds,
    patches.quantize_nothing,
    patches.drop_the_last_tokens,
    patches.forget_the_job_that_is_left,
    patches.keep_torchs_generator,
    patches.move_splits_from_a_cpu,
)

SCALES_AUX_LOSS_BY_CONTEXT = False  # for the backward, as it does the loss

CONFIG: dict[str, object] = {}  # of TransformerConfig, beside what every line knows


class WholeDispatcher(MoEAlltoAllTokenDispatcher):
    """megatron's dropless all-to-all dispatcher, for a subclass that goes there and back in one call each."""

    @abstractmethod
    def send(self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens sorted by local expert, how many each expert got, their probabilities)."""

    @abstractmethod
    def bring_back(self, hidden_states: Tensor) -> Tensor:
        """Each token's results, in the shape of the tokens that came."""

    def token_permutation(
        self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """megatron's name of the way there."""
        return self.send(hidden_states, probs, routing_map)

    def token_unpermutation(self, hidden_states: Tensor, bias: Tensor | None = None) -> tuple[Tensor, None]:
        """megatron's name of the way back; its bias is None."""
        assert bias is None
        return self.bring_back(hidden_states), None


def aux_loss_tracker() -> dict[str, object]:
    """megatron's running sums of the routers' auxiliary losses: name -> {"values": tensor [layers], ...}."""
    tracker: dict[str, object] = parallel_state.get_moe_layer_wise_logging_tracker()
    return tracker


def chunk_words(_chunk: int) -> dict[str, int]:
    """Which model chunk it is, as GPTModel's constructor takes it: not at all, it asks whose turn it is."""
    return {}


@contextmanager
def turn_of_chunk(chunk: int) -> Iterator[None]:
    """Inside, megatron takes this rank for its model chunk of that number: where it builds one, or names its layers."""
    if parallel_state.get_virtual_pipeline_model_parallel_world_size() is None:
        yield
        return
    before = parallel_state.get_virtual_pipeline_model_parallel_rank()
    parallel_state.set_virtual_pipeline_model_parallel_rank(chunk)
    try:
        yield
    finally:
        parallel_state.set_virtual_pipeline_model_parallel_rank(before)


def whole_job_groups() -> list[object]:
    """Groups of all ranks beside torch's own: none."""
    return []


def optimizer_state(optimizer: MegatronOptimizer, weights: StateDict, is_loading: bool) -> StateDict:
    """The optimizer's state, as dist_checkpointing takes it: each parameter's as flat pieces of the whole."""
    return optimizer.sharded_state_dict(weights, is_loading=is_loading)

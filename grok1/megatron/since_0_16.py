"""What megatron-core's lines 0.16 and 0.19 have in common, and 0.12 has otherwise.

Only line_0_16.py and line_0_19.py import this; `grok1.megatron.door` has the names from one of those.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from grok1.megatron.protocols import MegatronOptimizer, StateDict

# Each rank's part of each buffer as it lies: no exchange and no copy. The other kind, fully_reshardable, gathers every
# rank's on all, in memory that a full-size job lacks, for layouts that change, which are refused on these lines.
_SHARDING = {"distrib_optim_sharding_type": "dp_reshardable"}


class WholeDispatcher(MoEAlltoAllTokenDispatcher):
    """megatron's dropless all-to-all dispatcher, for a subclass that goes there and back in one call each.

    megatron calls three steps a way; the others hand on what they get.
    """

    def __init__(self, num_local_experts: int, local_expert_indices: Sequence[int], config: TransformerConfig) -> None:
        super().__init__(num_local_experts, local_expert_indices, config, pg_collection=get_default_pg_collection())

    @abstractmethod
    def send(self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens sorted by local expert, how many each expert got, their probabilities)."""

    @abstractmethod
    def bring_back(self, hidden_states: Tensor) -> Tensor:
        """Each token's results, in the shape of the tokens that came."""

    def dispatch_preprocess(self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """megatron's first step: keeps where the tokens go."""
        self._routing_map = routing_map
        return hidden_states, probs

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """megatron's second step."""
        return hidden_states, probs

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """megatron's third step."""
        return self.send(hidden_states, probs, self._routing_map)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """megatron's first step back."""
        return self.bring_back(hidden_states)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """megatron's second step back."""
        return hidden_states

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """megatron's last step."""
        return hidden_states


def whole_job_groups() -> list[object]:
    """Groups of all ranks beside torch's own: the distributed optimizer's, of which there is one instance."""
    return [parallel_state.get_intra_distributed_optimizer_instance_group()]


def optimizer_state(optimizer: MegatronOptimizer, weights: StateDict, is_loading: bool) -> StateDict:
    """The optimizer's state, as dist_checkpointing takes it: each rank's part of each buffer."""
    return optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_SHARDING)


def chunk_words(chunk: int) -> dict[str, int]:
    """Which model chunk it is, as GPTModel's constructor takes it."""
    return {"vp_stage": chunk}


@contextmanager
def turn_of_chunk(_chunk: int) -> Iterator[None]:
    """Nothing to set: a chunk knows its number."""
    yield

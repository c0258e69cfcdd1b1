"""The optimizer's state that one layout wrote, read in another: its tensors' names, and its parts.

megatron-core 0.12 stores each parameter's state under the weight's name, whole, from which any layout reads its pieces.
Two things differ: experts that have replicas of their own have an optimizer of their own, whose number is part of the
name, and each rank's parameter groups are in an order of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from grok1.config.sections import Parallel
from grok1.megatron.door import dist_checkpointing
from grok1.megatron.instances import chained
from grok1.megatron.protocols import MegatronOptimizer, StateDict


def as_written(state: StateDict, writer: Parallel) -> StateDict:
    """An optimizer's state that is to be read, its tensors under the names that the writer's layout gave them."""

    def renamed(tensor: Any) -> Any:
        if not isinstance(tensor, dist_checkpointing.mapping.ShardedBase):
            return tensor
        name = re.sub(r"^chained_\d+\.", "", tensor.key)
        return replace(tensor, key=f"chained_{int('.experts.' in name)}.{name}" if writer.has_experts_apart else name)

    return cast(StateDict, dist_checkpointing.dict_utils.dict_list_map_outplace(renamed, state))


def in_own_parts(state: Mapping[Any, Any], optimizer: MegatronOptimizer, writer: Parallel) -> Mapping[Any, Any]:
    """What was read, as `optimizer` loads it: its own parts and parameter groups, with the writer's count of steps."""
    common = state[0] if writer.has_experts_apart else state
    count = {"step": common["optimizer"]["param_groups"][0]["step"]}  # the same in all groups
    parts = chained(optimizer)
    fitted = {
        number: {
            "optimizer": {"param_groups": [{**group, **count} for group in part.optimizer.param_groups]},
            "param_state": (state if len(parts) == 1 else state[number])["param_state"],
            "param_state_sharding_type": common["param_state_sharding_type"],
        }
        for number, part in enumerate(parts)
    }
    return fitted if len(parts) > 1 else fitted[0]

"""Which ranks of a job count alike, so that one of them is counted for all. No torch.

What a rank does follows from its coordinates. Tensor ranks have equal shares, but the first reports the loss. Replicas
have their own parts of the optimizer's state, which other parameters lie in. Ranks of a context meet other keys. Expert
ranks get as many tokens as their experts' shares say.
"""

from __future__ import annotations

from grok1.config.sections import Parallel
from grok1.config.stages import stage_and_replica


def coordinates(parallel: Parallel, rank: int, routing_is_even: bool) -> tuple[int, ...]:
    """What decides a rank's ledger; ranks with the same have the same one."""
    tensor, context = rank % parallel.tensor, rank // parallel.tensor % parallel.context
    stage, replica = stage_and_replica(parallel, rank // (parallel.tensor * parallel.context), parallel.data)
    of_experts = rank // parallel.expert_tensor
    expert, expert_tensor = of_experts % parallel.expert, rank % parallel.expert_tensor
    _, expert_replica = stage_and_replica(parallel, of_experts // parallel.expert, parallel.expert_data)
    own_experts = 0 if routing_is_even else expert
    return stage, int(tensor > 0), int(expert_tensor > 0), context, replica, expert_replica, own_experts

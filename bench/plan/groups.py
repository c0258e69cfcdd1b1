"""The groups of ranks that a step communicates in: how many ranks each has, and how far apart they lie. No torch.

megatron numbers ranks from the innermost axis on: tensor, context, data, pipeline, or with the last two swapped. The
experts' groups are laid over the same ranks as expert-tensor, expert, expert-data, pipeline.
(megatron.core.parallel_state.RankGenerator)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.plan.layouts import Ints, Layouts


@dataclass(frozen=True)
class Group:
    """A kind of group, a row a layout."""

    ranks: Ints
    stride: Ints  # from one of its ranks to the next, in ranks of the job


def groups_of(of: Layouts) -> dict[str, Group]:
    """Every kind of group by what is split over it, as the ledger names them.

    "data x context" is a block of neighbours where stages lie outside replicas. Where they lie inside, its ranks are
    not equally far apart: the stride is then that of its replicas, the widest, or of its context where it has one.
    """
    is_stage_inside = of.column_of("tp-cp-ep-pp-dp", "order")
    one, dense, of_experts = np.ones_like(of.tensor), of.tensor * of.context, of.expert_tensor * of.expert
    stages_between = np.where(is_stage_inside, of.pipeline, 1)
    stage = np.where(is_stage_inside, dense, dense * of.data)
    replica = dense * stages_between
    is_block = (of.context > 1) & ((stages_between == 1) | (of.data == 1))
    return {
        "tensor": Group(of.tensor, one),
        "context": Group(of.context, of.tensor),
        "tensor x context": Group(dense, one),
        "expert": Group(of.expert, of.expert_tensor),
        "expert-tensor": Group(of.expert_tensor, one),
        "expert-tensor x expert": Group(of_experts, one),
        "data": Group(of.data, replica),
        "data x context": Group(of.data * of.context, np.where(is_block, of.tensor, replica)),
        "expert-data": Group(of.expert_data, of_experts * stages_between),
        "pipeline": Group(of.pipeline, stage),
        "embedding": Group(np.minimum(2, of.pipeline), stage * np.maximum(1, of.pipeline - 1)),
        "world": Group(of.world_size, one),
    }

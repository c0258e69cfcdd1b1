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
    """A kind of group, a row a layout: which ranks of the job make up its groups.

    A group is `runs` runs of `run` ranks. Between its runs lie those of others: of `between` runs one is its own. The
    job is so many `blocks` of that. A group whose ranks are equally far apart is one run.
    """

    stride: Ints  # from one rank of a run to the next, in ranks of the job
    run: Ints
    between: Ints
    runs: Ints
    blocks: Ints
    has_ends: bool = False  # of a run the first rank and the last alone

    @property
    def ranks(self) -> Ints:
        """Of one group."""
        return np.minimum(2, self.run) if self.has_ends else self.run * self.runs

    @property
    def world_size(self) -> Ints:
        """Of the job."""
        return self.stride * self.run * self.between * self.runs * self.blocks


def groups_of(of: Layouts) -> dict[str, Group]:
    """Every kind of group by what is split over it, as the ledger names them.

    "data x context" is a block of neighbours where stages lie outside replicas. Where they lie inside, the ranks of a
    context are a run, and the other stages' lie between it and the next replica's.
    """
    is_stage_inside = of.column_of("tp-cp-ep-pp-dp", "order")
    one, dense, of_experts = np.ones_like(of.tensor), of.tensor * of.context, of.expert_tensor * of.expert
    stages_between = np.where(is_stage_inside, of.pipeline, 1)
    stage = np.where(is_stage_inside, dense, dense * of.data)

    def even(ranks: Ints, stride: Ints, has_ends: bool = False) -> Group:
        return Group(stride, ranks, one, one, of.world_size // (stride * ranks), has_ends)

    replicas = Group(of.tensor, of.context, stages_between, of.data, of.pipeline // stages_between)
    return {
        "tensor": even(of.tensor, one),
        "context": even(of.context, of.tensor),
        "tensor x context": even(dense, one),
        "expert": even(of.expert, of.expert_tensor),
        "expert-tensor": even(of.expert_tensor, one),
        "expert-tensor x expert": even(of_experts, one),
        "data": even(of.data, dense * stages_between),
        "data x context": replicas,
        "expert-data": even(of.expert_data, of_experts * stages_between),
        "pipeline": even(of.pipeline, stage),
        "embedding": even(of.pipeline, stage, has_ends=True),
        "world": even(of.world_size, one),
    }

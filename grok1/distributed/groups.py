"""Process groups: joins the job, builds megatron's groups for a recipe, and hands on one `Ranks` object.

The only user of megatron's parallel_state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store  # torch.distributed's own, which its types do not name

from grok1.config.sections import Parallel
from grok1.device import seam
from grok1.device.without_data import init_fake_process_group
from grok1.distributed.heartbeat import heartbeat, open_meeting
from grok1.distributed.rendezvous import FAKE_URL, Rendezvous
from grok1.distributed.roll_call import call_roll
from grok1.distributed.store import opened
from grok1.megatron.door import aux_loss_tracker, parallel_state, tensor_parallel, whole_job_groups


@dataclass(frozen=True)
class Ranks:
    """This process's coordinates in the layout."""

    rank: int
    world_size: int
    local_rank: int
    tensor: int
    context: int
    pipeline: int
    data: int
    expert: int
    expert_tensor: int
    expert_data: int
    is_first_stage: bool
    is_last_stage: bool

    @property
    def is_first_of_stage(self) -> bool:
        """True on the lowest rank of each pipeline stage."""
        return self.tensor == self.context == self.data == 0

    @property
    def reports_loss(self) -> bool:
        """True on the ranks of a data-parallel replica whose losses add up to its own: one of each context's."""
        return self.is_last_stage and self.tensor == 0


@contextmanager
def joined(where: Rendezvous, parallel: Parallel, seed: int) -> Iterator[Ranks]:
    """Join the job and build its groups; leave it at the end, unless by an error.

    Raises:
        ValueError: ranks of torchrun or Slurm did not come, or do not run the same.
    """
    seam.bind(where.local_rank, where.node)
    if where.url == FAKE_URL:
        init_fake_process_group(where.rank, where.world_size)
        yield _build_groups(where, parallel, seed)
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        return
    interface = where.interface()
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME") or interface
    with ExitStack() as stack:
        store = opened(where)
        if where.terms:
            store = PrefixStore(f"grok1 {where.attempt}", store)
            _come_together(store, where, stack)
        timeout = timedelta(seconds=where.timeout_seconds)
        store.set_timeout(timeout)
        dist.init_process_group(
            seam.backend(), store=store, rank=where.rank, world_size=where.world_size, timeout=timeout
        )
        yield _build_groups(where, parallel, seed)
    # not after an error: leaving closes the connections, and the others' complaints would hide the cause
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _come_together(store: Store, where: Rendezvous, stack: ExitStack) -> None:
    """Refuse a job whose ranks are not all there, or do not run the same; then let their hearts beat."""
    meeting, listener = open_meeting(where) if where.rank == 0 and where.beats else (None, None)
    meeting = call_roll(store, where, meeting)
    if meeting is not None and where.beats and where.world_size > 1:
        stack.enter_context(heartbeat(where, meeting, listener))


def _build_groups(where: Rendezvous, parallel: Parallel, seed: int) -> Ranks:
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        context_parallel_size=parallel.context,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        order=parallel.order,
        distributed_timeout_minutes=where.timeout_seconds / 60,
        create_gloo_process_groups=False,  # only legacy checkpoints use them, and they double the start-up time
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Ranks(
        rank=where.rank,
        world_size=where.world_size,
        local_rank=where.local_rank,
        tensor=parallel_state.get_tensor_model_parallel_rank(),
        context=parallel_state.get_context_parallel_rank(),
        pipeline=parallel_state.get_pipeline_model_parallel_rank(),
        data=parallel_state.get_data_parallel_rank(),
        expert=parallel_state.get_expert_model_parallel_rank(),
        expert_tensor=parallel_state.get_expert_tensor_parallel_rank(),
        expert_data=parallel_state.get_expert_data_parallel_rank(),
        # without "ignore_virtual", megatron asks of the chunk whose turn it is
        is_first_stage=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
        is_last_stage=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
    )


def tensor_group() -> dist.ProcessGroup:
    """The ranks that share each matrix with this one."""
    group: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
    return group


def context_group() -> dist.ProcessGroup:
    """The ranks that share each sequence with this one."""
    group: dist.ProcessGroup = parallel_state.get_context_parallel_group()
    return group


def gathering_buffer(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Room for a gathered sequence, the same that megatron's layers gather into: used before the next gathers."""
    buffer: torch.Tensor = parallel_state.get_global_memory_buffer().get_tensor(shape, dtype, "mpu")
    return buffer


def aux_loss_sums() -> dict[str, object]:
    """megatron's running sums of the routers' auxiliary losses: name -> {"values": tensor [layers], ...}."""
    return aux_loss_tracker()


def group_names() -> dict[dist.ProcessGroup | None, str]:
    """What is split over each of this rank's groups; None, as in torch's calls, is the whole job.

    The first name fits where two kinds share a group.
    """
    state = parallel_state
    of_context = " x context" if state.get_context_parallel_world_size() > 1 else ""  # else groups of the same ranks
    kinds = [
        ("tensor", state.get_tensor_model_parallel_group()),
        ("context", state.get_context_parallel_group()),
        (f"tensor{of_context}", state.get_tensor_and_context_parallel_group()),
        ("expert", state.get_expert_model_parallel_group()),
        ("expert-tensor", state.get_expert_tensor_parallel_group()),
        ("expert-tensor x expert", state.get_expert_tensor_and_model_parallel_group()),
        ("data", state.get_data_parallel_group()),
        (f"data{of_context}", state.get_data_parallel_group(with_context_parallel=True)),
        ("expert-data", state.get_expert_data_parallel_group()),
        ("pipeline", state.get_pipeline_model_parallel_group()),
        ("tensor x pipeline", state.get_model_parallel_group()),
        ("embedding", state._EMBEDDING_GROUP),
        ("tensor x data", state.get_tensor_and_data_parallel_group()),
        (f"tensor x data{of_context}", state.get_tensor_and_data_parallel_group(with_context_parallel=True)),
        ("expert-tensor x expert x pipeline", state.get_expert_tensor_model_pipeline_parallel_group()),
        ("world", dist.group.WORLD),
        *(("world", group) for group in whole_job_groups()),
    ]
    names: dict[dist.ProcessGroup | None, str] = {None: "world"}
    for name, group in kinds:
        if isinstance(group, dist.ProcessGroup):
            names.setdefault(group, name)
    return names

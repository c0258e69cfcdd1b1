"""Collectives as ranks on a CPU do them beside what they must come to, as an entry for the launcher."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.device import gloo, mailboxes, shared_memory
from grok1.device.mailboxes import Mailboxes, Rounds
from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import joined, tensor_group
from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job

REDUCTIONS = {
    dist.ReduceOp.SUM: lambda parts_GN: parts_GN.sum(dim=0, dtype=parts_GN.dtype),
    dist.ReduceOp.MAX: lambda parts_GN: parts_GN.amax(dim=0),
    dist.ReduceOp.MIN: lambda parts_GN: parts_GN.amin(dim=0),
    dist.ReduceOp.PRODUCT: lambda parts_GN: parts_GN.prod(dim=0, dtype=parts_GN.dtype),  # which no exchange serves
}
DTYPES = (torch.float32, torch.bfloat16, torch.int64)
REFUSED = [f"scattered {op}" for op in REDUCTIONS if op != dist.ReduceOp.SUM] if gloo._SCATTERS_SUMS_ALONE else []
ROWS = (1, 3, 40_000)  # the last makes an all-reduce of more than is sent to all, in each dtype


def beside_their_meaning(job: Job, where: Rendezvous, _emit: Any) -> list[dict[str, Any]] | None:
    """What each rank found, by connections and by memory: wrong results by name, the ways taken, what was counted."""
    with joined(where, job.recipe.parallel, 0) as ranks:
        taken = _count_answers()
        with mock.patch.object(mailboxes, "_may_open", return_value=False):
            by_connections = _found(taken)
        mailboxes._OPENED.clear()
        found: list[Any] = [None] * where.world_size
        dist.all_gather_object(found, [by_connections, _found(taken), _sharing(ranks.rank)])
        return found if ranks.rank == 0 else None


def _sharing(rank: int) -> list[bool]:
    """Whether this rank shares memory: among two nodes, if one cannot map it, if there is none, else, of too much."""

    def shares() -> bool:
        mailboxes._OPENED.clear()
        return mailboxes.mailboxes(tensor_group()) is not None

    mailboxes.be_on(rank // 2)
    found = [shares()]
    mailboxes.be_on(0)
    with mock.patch.object(mailboxes, "_mapped", return_value=None) if rank == 2 else contextlib.nullcontext():
        found.append(shares())
    with mock.patch.object(os, "memfd_create", side_effect=OSError):
        found.append(shares())
    found.append(shares())
    boxes: Any = mailboxes.mailboxes(tensor_group())
    before = boxes._posted
    with mock.patch.object(shared_memory, "_MOST_READ_BYTES", 15):  # less than four ranks' four bytes
        dist.all_reduce(torch.ones(1), group=tensor_group())
    return [*found, boxes._posted > before]


def _found(taken: Counter[str]) -> dict[str, Any]:
    taken.clear()
    wrong = list(_wrong_of_coalesced(tensor_group()))
    wrong += [name for group in (tensor_group(), None) for name in _wrong_of(group)]
    counted = {name: each.calls for name, each in TRAFFIC.drain({tensor_group(): "tensor"}).items()}
    return {"wrong": wrong, "taken": dict(taken), "counted": counted}


def _count_answers() -> Counter[str]:
    is_direct, begin, answers = gloo._is_direct, Mailboxes.begin, Counter[str]()

    def counted(group: Any, *args: Any) -> bool:
        answer = is_direct(group, *args)
        answers[f"{'world' if group is None else 'tensor'} {'direct' if answer else 'ring'}"] += 1
        return answer

    def begun(boxes: Mailboxes, rounds: Rounds) -> Callable[[], None]:
        answers["shared memory"] += 1
        return begin(boxes, rounds)

    gloo._is_direct = counted  # type: ignore[assignment]  # this process runs nothing else
    Mailboxes.begin = begun  # type: ignore[method-assign,assignment]  # nor does it need the other
    return answers


def _wrong_of(group: Any) -> Iterator[str]:
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    for dtype in DTYPES:
        for rows in ROWS:
            # the same on every rank; small whole numbers, so that no order of summing rounds
            generator = torch.Generator().manual_seed(rows)
            inputs_GPK = torch.randint(-3, 4, (size, size * rows, 2), generator=generator).to(dtype)
            for is_async in (False, True):
                found = dict(_results(inputs_GPK, group, rank, is_async))
                wanted = dict(_meanings(inputs_GPK, rank))
                assert wanted.keys() - found.keys() <= {"strided", *REFUSED}
                for name, result in found.items():
                    if not torch.equal(result, wanted[name]):
                        yield f"{name} of {rows} rows of {dtype}, group of {size}, async: {is_async}"


def _wrong_of_coalesced(group: dist.ProcessGroup) -> Iterator[str]:
    """As megatron's gradient buffers do, in place, and wait for all of them at once; one is too large for memory."""
    size, coalescing = group.size(), vars(dist)["_coalescing_manager"]
    for is_async, most in itertools.product((False, True), (shared_memory._MOST_READ_BYTES, 0)):
        wholes = [torch.ones(3 * size), torch.ones(40_000 * size)]
        parts = [whole.view(size, -1)[group.rank()] for whole in wholes]
        with coalescing(group, async_ops=is_async) as under_way:
            for whole, part in zip(wholes, parts, strict=True):
                dist.reduce_scatter_tensor(part, whole, group=group, async_op=is_async)
        if is_async:
            under_way.wait()
        reduced = [torch.ones(5), torch.ones(40_000)]
        with mock.patch.object(shared_memory, "_MOST_READ_BYTES", most):
            with coalescing(group, async_ops=is_async) as under_way:
                for tensor in reduced:
                    dist.all_reduce(tensor, group=group, async_op=is_async)
            if is_async:
                under_way.wait()
        if not all(part.eq(size).all() for part in (*parts, *reduced)):
            yield f"coalesced, async: {is_async}"


def _results(inputs_GPK: Tensor, group: Any, rank: int, is_async: bool) -> Iterator[tuple[str, Tensor]]:
    mine_PK = inputs_GPK[rank]
    rows = mine_PK.shape[0] // len(inputs_GPK)
    how = {"group": group, "async_op": is_async}

    def ended(work: Any) -> None:
        assert (work is not None) == is_async
        if work is not None:
            work.wait()

    for name, received, sent in _shares(size := len(inputs_GPK), rank, rows):
        swapped_PK = mine_PK.new_empty(sum(received) if received else size * rows, 2)
        outgoing_PK = mine_PK[: sum(sent)] if sent else mine_PK
        ended(dist.all_to_all_single(swapped_PK, outgoing_PK, received, sent, **how))
        yield name, swapped_PK
    whole_PK = torch.empty_like(mine_PK)
    ended(dist.all_gather_into_tensor(whole_PK, mine_PK[:rows], **how))
    yield "gathered", whole_PK
    for op in REDUCTIONS:
        part_pK = torch.empty_like(mine_PK[:rows])
        with contextlib.suppress(NotImplementedError):  # of torch 2.7, and better than another result
            ended(dist.reduce_scatter_tensor(part_pK, mine_PK, op, **how))
            yield f"scattered {op}", part_pK
        reduced_PK = mine_PK.clone()
        ended(dist.all_reduce(reduced_PK, op, **how))
        yield f"reduced {op}", reduced_PK
    if group is not None and rows < max(ROWS):  # around the ring, gloo sums what lies at the same place in memory
        strided_PK = mine_PK.t().contiguous().t() if rank == 0 else mine_PK.clone()
        ended(dist.all_reduce(strided_PK, **how))
        yield "strided", strided_PK


def _shares(size: int, rank: int, rows: int) -> Iterator[tuple[str, list[int] | None, list[int] | None]]:
    """All-to-alls: name, rows from each rank, rows to each rank."""
    yield "swapped", None, None
    yield (
        "swapped unevenly",
        [rows * (peer >= rank) for peer in range(size)],
        [rows * (peer <= rank) for peer in range(size)],
    )


def _meanings(inputs_GPK: Tensor, rank: int) -> Iterator[tuple[str, Tensor]]:
    size = len(inputs_GPK)
    rows = inputs_GPK.shape[1] // size
    mine_PK = inputs_GPK[:, rank * rows : (rank + 1) * rows]
    yield "swapped", mine_PK.flatten(0, 1)
    yield "swapped unevenly", mine_PK[rank:].flatten(0, 1)
    yield "gathered", inputs_GPK[:, :rows].flatten(0, 1)
    for op, reduction in REDUCTIONS.items():
        total_PK = reduction(inputs_GPK)
        yield f"scattered {op}", total_PK[rank * rows : (rank + 1) * rows]
        yield f"reduced {op}", total_PK
    yield "strided", inputs_GPK.sum(dim=0, dtype=inputs_GPK.dtype)

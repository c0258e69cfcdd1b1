"""Collectives through shared memory: what they come to at any size, and what is said when a rank fails the others.

The ranks are threads here, each with a view of its own of one piece of memory.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grok1.device import mailboxes
from grok1.device.mailboxes import Mailboxes, Rounds
from tests.limits import HANG_SECONDS

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)
SMALL_PART = 256  # bytes: a few numbers already take several rounds

groups = st.integers(2, 5)
counts = st.integers(0, 150)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "PART_BYTES", SMALL_PART)


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool


def opened(size: int, timeout_seconds: float = HANG_SECONDS, pids: list[int] | None = None) -> list[Mailboxes]:
    """The mailboxes of each rank of a group in this process."""
    memory = mmap.mmap(-1, mailboxes.Layout.of(size).end)
    return [Mailboxes(rank, pids or [os.getpid()] * size, memory, timeout_seconds) for rank in range(size)]


def run(threads: ThreadPoolExecutor, ranks: list[Mailboxes], work: Callable[[int, Mailboxes], Any]) -> list[Any]:
    """What each rank's work came to, all at once."""
    under_way = [threads.submit(work, rank, boxes) for rank, boxes in enumerate(ranks)]
    return [each.result(timeout=HANG_SECONDS) for each in under_way]


def end(boxes: Mailboxes, rounds: Rounds) -> None:
    boxes.begin(rounds)()


def total(parts_GN: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.sum(parts_GN, dim=0, dtype=parts_GN.dtype, out=out)


def random(dtype: torch.dtype, *shape: int) -> Tensor:
    """Small whole numbers, so that no order of summing rounds."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@given(size=groups, count=counts, dtype=st.sampled_from(DTYPES), is_in_place=st.booleans())
def test_all_gather(threads: ThreadPoolExecutor, size: int, count: int, dtype: torch.dtype, is_in_place: bool) -> None:
    parts_GN = random(dtype, size, count)

    def work(rank: int, boxes: Mailboxes) -> Tensor:
        whole_GN = torch.zeros_like(parts_GN)
        whole_GN[rank] = parts_GN[rank]
        end(boxes, boxes.gather(whole_GN, whole_GN[rank] if is_in_place else parts_GN[rank]))
        return whole_GN

    assert all(found.equal(parts_GN) for found in run(threads, opened(size), work))


@given(size=groups, count=counts, dtype=st.sampled_from(DTYPES), is_strided=st.booleans())
def test_all_reduce(threads: ThreadPoolExecutor, size: int, count: int, dtype: torch.dtype, is_strided: bool) -> None:
    parts_GN2 = random(dtype, size, count, 2)

    def work(rank: int, boxes: Mailboxes) -> Tensor:
        mine_N2 = parts_GN2[rank].clone()
        if is_strided and rank == 0:
            mine_N2 = mine_N2.t().contiguous().t()
        end(boxes, boxes.reduce(mine_N2, total))
        return mine_N2

    assert all(found.equal(total(parts_GN2)) for found in run(threads, opened(size), work))


@given(size=groups, count=counts, dtype=st.sampled_from(DTYPES), is_in_place=st.booleans())
def test_reduce_scatter(
    threads: ThreadPoolExecutor, size: int, count: int, dtype: torch.dtype, is_in_place: bool
) -> None:
    inputs_GGN = random(dtype, size, size, count)

    def work(rank: int, boxes: Mailboxes) -> Tensor:
        inputs_GN = inputs_GGN[rank].clone()
        mine_N = inputs_GN[rank] if is_in_place else inputs_GN.new_empty(count)
        end(boxes, boxes.scatter(mine_N, inputs_GN, total))
        return mine_N

    assert torch.stack(run(threads, opened(size), work)).equal(total(inputs_GGN))


@given(data=st.data(), size=groups, dtype=st.sampled_from(DTYPES))
def test_all_to_all_of_any_shares(
    threads: ThreadPoolExecutor, data: st.DataObject, size: int, dtype: torch.dtype
) -> None:
    rows_GG = data.draw(
        st.lists(st.lists(st.integers(0, 40), min_size=size, max_size=size), min_size=size, max_size=size)
    )
    inputs = [random(dtype, sum(rows), 3) for rows in rows_GG]
    row_bytes = 3 * dtype.itemsize

    def work(rank: int, boxes: Mailboxes) -> Tensor:
        received = [rows[rank] for rows in rows_GG]
        output = inputs[0].new_empty(sum(received), 3)
        sizes = [[rows * row_bytes for rows in each] for each in (received, rows_GG[rank])]
        end(boxes, boxes.exchange(output, inputs[rank], *sizes))
        return output

    cut = [tensor.split(rows) for tensor, rows in zip(inputs, rows_GG, strict=True)]
    found = run(threads, opened(size), work)
    assert all(each.equal(torch.cat([mine[rank] for mine in cut])) for rank, each in enumerate(found))


def test_many_in_a_row_past_the_end_of_the_counts(threads: ThreadPoolExecutor) -> None:
    ranks = opened(3)
    for boxes in ranks:
        boxes._posted = mailboxes._COUNTS - 20
        for count in boxes._counts:
            count.value = boxes._posted

    def work(rank: int, boxes: Mailboxes) -> list[float]:
        found = []
        for step in range(100):
            mine = torch.full((7,), float(step + rank))
            end(boxes, boxes.reduce(mine, total))
            found.append(float(mine[0]))
        return found

    assert run(threads, ranks, work) == [[3.0 * step + 3 for step in range(100)]] * 3


def test_waited_for_in_another_order(threads: ThreadPoolExecutor) -> None:
    """The later collective ends the earlier one; to wait for that again does nothing."""

    def work(rank: int, boxes: Mailboxes) -> tuple[Tensor, Tensor]:
        first_N, second_N = torch.full((200,), 1.0 + rank), torch.full((300,), 10.0 + rank)
        waits = [boxes.begin(boxes.reduce(each, total)) for each in (first_N, second_N)]
        for wait in reversed(waits):
            wait()
        return first_N, second_N

    for first_N, second_N in run(threads, opened(2), work):
        assert first_N.eq(3).all()
        assert second_N.eq(21).all()


def test_ranks_that_differ_in_size_are_told(threads: ThreadPoolExecutor) -> None:
    def work(rank: int, boxes: Mailboxes) -> None:
        with pytest.raises(RuntimeError, match=r"ranks post \[4, 8\] bytes in one collective of equal parts"):
            end(boxes, boxes.gather(torch.empty(2, 1 + rank), torch.ones(1 + rank)))

    run(threads, opened(2), work)


def test_shares_that_contradict_are_told(threads: ThreadPoolExecutor) -> None:
    def work(rank: int, boxes: Mailboxes) -> None:
        output = torch.empty(8 - rank, dtype=torch.uint8)
        received = [4, 4] if rank == 0 else [4, 3]
        if rank == 0:
            end(boxes, boxes.exchange(output, torch.ones(8, dtype=torch.uint8), received, [4, 4]))
            return
        with pytest.raises(RuntimeError, match=r"ranks send \[4, 4\] bytes to rank 1, which waits for \[4, 3\]"):
            end(boxes, boxes.exchange(output, torch.ones(8, dtype=torch.uint8), received, [4, 4]))

    run(threads, opened(2), work)


def test_a_rank_that_has_ended_is_told() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    boxes = opened(2, pids=[os.getpid(), ended.pid])[0]
    with pytest.raises(RuntimeError, match="Connection closed by peer: the process of rank 1 of this group has ended"):
        end(boxes, boxes.reduce(torch.ones(3), total))
    ended.wait()
    boxes = opened(2, pids=[os.getpid(), ended.pid])[0]
    with pytest.raises(RuntimeError, match="has ended"):  # nor where somebody has asked how
        end(boxes, boxes.reduce(torch.ones(3), total))


def test_a_rank_that_does_not_come_is_told() -> None:
    boxes = opened(2, timeout_seconds=0.5)[0]
    with pytest.raises(RuntimeError, match=r"Timed out waiting for rank 1 of this group, 0\.5 s"):
        end(boxes, boxes.reduce(torch.ones(3), total))


def test_memory_of_another_process_is_not_taken() -> None:
    """A process of the same number on another machine, or one that opened another file since."""
    descriptor = os.memfd_create(mailboxes._name(7))
    try:
        os.ftruncate(descriptor, 4096)
        assert mailboxes._mapped(os.getpid(), descriptor, 7, 4096) is not None
        assert mailboxes._mapped(os.getpid(), descriptor, 8, 4096) is None
        assert mailboxes._mapped(os.getpid(), descriptor, 7, 8192) is None  # too short
        assert mailboxes._mapped(os.getpid(), -1, 7, 4096) is None
        assert mailboxes._mapped(1 << 30, descriptor, 7, 4096) is None
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("platform", "machine", "size"),
    [("darwin", "x86_64", 4), ("linux", "aarch64", 4), ("linux", "x86_64", 17), ("linux", "x86_64", 1)],
)
def test_opened_only_where_it_was_run(monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, size: int) -> None:
    monkeypatch.setattr("grok1.device.futex.sys.platform", platform)
    monkeypatch.setattr("grok1.device.futex.platform.machine", lambda: machine)
    assert not mailboxes._may_open(size)

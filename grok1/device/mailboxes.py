"""Collectives through memory that the ranks of one machine share: each writes its part there, all read it there.

Over connections every peer is sent a copy of its own, and a thread of the peer's wakes up for it, on a core that some
other rank's step is using. Here a rank copies its part once, counts it, and sleeps until the others have counted theirs
(a futex: no threads, no polling). Larger things come in rounds.

    counts  [rank]                  how often that rank has posted
    sizes   [slot, rank, 1 + rank]  bytes that it posted; bytes that it sends to each, where they may differ
    parts   [slot, rank, byte]      what it posted

Two slots are enough: a rank posts again only after it has read all of its last round, for which everybody had posted,
and so had read the round before.

Linux on x86-64 only, where whoever sees a count also sees what was written before it; run on no other. The memory
belongs to the processes that map it, so nothing is left behind however they end.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.device import futex
from grok1.device.process_state import has_ended

MOST_RANKS = 16  # of a group: each reads what all wrote
PART_BYTES = 1 << 21  # that a rank posts at a time; what is never used of it takes no memory
_PAGE_BYTES = 4096
_LINE_BYTES = 64  # of a processor's cache: one for each count
_SIZE_BYTES = 8
_COUNTS = 1 << 32  # a count starts again from 0 after so many
_MOST_VIEWS = 512  # kept of one group's parts

Rounds = Generator[None, None, None]  # a collective: it has posted once it first yields, and has its result at its end
Reduction = Callable[[Tensor, Tensor], object]  # of [G, N], into [N]


class Mailboxes:
    """The shared memory of one group. All its ranks call the same collectives in the same order.

    At most one is under way: the next one ends it first.

    Raises, from whatever waits:
        RuntimeError: ranks differ in how much they post, or one has ended, or took longer than a collective may.
    """

    def __init__(self, rank: int, pids: Sequence[int], memory: mmap.mmap, timeout_seconds: float) -> None:
        """`pids`: the processes of the group's ranks, for telling a dead one from a slow one."""
        size = len(pids)
        layout = Layout.of(size)
        self.size, self._rank, self._pids, self._timeout_seconds = size, rank, pids, timeout_seconds
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        self._addresses = [whole.data_ptr() + _LINE_BYTES * peer for peer in range(size)]
        self._counts = [ctypes.c_uint32.from_address(address) for address in self._addresses]
        sizes = memoryview(memory)[layout.sizes : layout.parts].cast("q")
        self._sizes = [[_row(sizes, 1 + size, slot * size + peer) for peer in range(size)] for slot in (0, 1)]
        self._parts_2GB = whole[layout.parts :].view(2, size, PART_BYTES)
        self._peers = [peer for peer in range(size) if peer != rank]
        self._views: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._posted, self._slot = 0, 0  # how often, and where the latest lies
        self._under_way: Rounds | None = None

    def begin(self, rounds: Rounds) -> Callable[[], None]:
        """Post a collective's first round. To call what this returns is to wait for the result."""
        if self._under_way is not None:
            _end(self._under_way)
        self._under_way = rounds
        next(rounds)
        return lambda: _end(rounds)

    def gather(self, output: Tensor, part: Tensor) -> Rounds:
        """[N] of each rank to [G x N] on all."""
        output_GN, part_N = output.view(self.size, -1), part.reshape(-1)
        for low, high in _cuts(len(part_N), PART_BYTES // part.itemsize):
            everybodys_GN = yield from self._swap(part_N[low:high])
            output_GN[:, low:high].copy_(everybodys_GN)

    def reduce(self, tensor: Tensor, reduction: Reduction) -> Rounds:
        """[N] of each rank to one [N] on all, in its place."""
        mine_N = tensor.reshape(-1)
        for low, high in _cuts(len(mine_N), PART_BYTES // tensor.itemsize):
            reduced_N = mine_N[low:high]
            reduction((yield from self._swap(reduced_N)), reduced_N)
        if not tensor.is_contiguous():
            tensor.copy_(mine_N.view(tensor.shape))

    def scatter(self, output: Tensor, inputs: Tensor, reduction: Reduction) -> Rounds:
        """[G x N] of each rank to one [G x N], of which each rank has its [N]."""
        output_N, inputs_GN = output.view(-1), inputs.reshape(self.size, -1)
        for low, high in _cuts(len(output_N), PART_BYTES // self.size // output.itemsize):
            everybodys_GP = yield from self._swap(inputs_GN[:, low:high])
            width = high - low
            reduction(everybodys_GP[:, self._rank * width : (self._rank + 1) * width], output_N[low:high])

    def exchange(self, output: Tensor, inputs: Tensor, received: Sequence[int], sent: Sequence[int]) -> Rounds:
        """`sent[rank]` bytes of the input to each rank, `received[rank]` bytes of the output from each."""
        output_B, input_B = (each.view(-1).view(torch.uint8) for each in (output, inputs))
        places = [0, *itertools.accumulate(received)]  # of each rank's share in the output
        starts: list[int] = []  # of this rank's share in the input of each
        low, longest = 0, 1
        while low < longest:
            self._post(input_B[low : low + PART_BYTES], sent)
            yield
            self._await_all()
            parts_GB = self._parts_2GB[self._slot]
            if not starts:
                starts, longest = self._announced(received)
            for peer, start in enumerate(starts):
                first, last = max(start, low), min(start + received[peer], low + PART_BYTES)
                if first < last:
                    shift = places[peer] - start
                    output_B[first + shift : last + shift] = parts_GB[peer, first - low : last - low]
            low += PART_BYTES

    def _announced(self, received: Sequence[int]) -> tuple[list[int], int]:
        """Where in each rank's input this rank's share starts, and the bytes of the longest input."""
        rows = [sizes.tolist()[1:] for sizes in self._sizes[self._slot]]
        found = [row[self._rank] for row in rows]
        if found != list(received):
            raise RuntimeError(f"ranks send {found} bytes to rank {self._rank}, which waits for {list(received)}")
        return [sum(row[: self._rank]) for row in rows], max(map(sum, rows))

    def _swap(self, mine: Tensor) -> Generator[None, None, Tensor]:
        """Post these N numbers and wait for everybody's: [G, N], which stay until this rank's next post but one."""
        num_bytes = mine.nbytes
        self._post(mine)
        yield
        self._await_all()
        for sizes in self._sizes[self._slot]:
            if sizes[0] != num_bytes:
                posted = [each[0] for each in self._sizes[self._slot]]
                raise RuntimeError(f"ranks post {posted} bytes in one collective of equal parts")
        return self._parts(num_bytes, mine.dtype)[self._slot]

    def _post(self, mine: Tensor, sent: Sequence[int] = ()) -> None:
        self._posted += 1
        self._slot = self._posted % 2
        num_bytes = mine.nbytes
        self._parts(num_bytes, mine.dtype)[self._slot][self._rank].view(mine.shape).copy_(mine)
        sizes = self._sizes[self._slot][self._rank]
        sizes[0] = num_bytes
        for place, each in enumerate(sent, 1):
            sizes[place] = each
        self._counts[self._rank].value = self._posted % _COUNTS
        futex.wake(self._addresses[self._rank])

    def _parts(self, num_bytes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Everybody's parts of this many bytes in each slot, [G, N]: made once, as a step posts the same every time."""
        found = self._views.get((num_bytes, dtype))
        if found is None:
            if len(self._views) == _MOST_VIEWS:
                self._views.clear()
            first, second = self._parts_2GB[:, :, :num_bytes].view(dtype)
            found = self._views[num_bytes, dtype] = first, second
        return found

    def _await_all(self) -> None:
        for peer in self._peers:
            # it may be a round ahead, but not behind the round before
            if self._counts[peer].value == (self._posted - 1) % _COUNTS:
                self._await(peer)

    def _await(self, peer: int) -> None:
        """Sleep until the peer has posted this round."""
        before, started = (self._posted - 1) % _COUNTS, time.monotonic()
        while self._counts[peer].value == before:
            if futex.sleep(self._addresses[peer], before):
                continue
            if has_ended(self._pids[peer]) and self._counts[peer].value == before:
                raise RuntimeError(f"Connection closed by peer: the process of rank {peer} of this group has ended")
            if time.monotonic() - started > self._timeout_seconds:
                raise RuntimeError(f"Timed out waiting for rank {peer} of this group, {self._timeout_seconds:g} s")


def _row(numbers: memoryview, length: int, index: int) -> memoryview:
    return numbers[length * index : length * (index + 1)]


def _end(rounds: Rounds) -> None:
    for _ in rounds:
        pass


def _cuts(length: int, step: int) -> Iterator[tuple[int, int]]:
    """The rounds of so many numbers, at least one."""
    return ((low, min(low + step, length)) for low in range(0, max(length, 1), step))


# ---- opening -------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Where what lies in a group's memory, in bytes; the counts come first."""

    sizes: int
    parts: int
    end: int

    @staticmethod
    def of(size: int) -> Layout:
        """For a group of so many ranks."""
        sizes = _pages(_LINE_BYTES * size)
        parts = sizes + _pages(2 * _SIZE_BYTES * size * (1 + size))
        return Layout(sizes, parts, parts + 2 * PART_BYTES * size)


def _pages(num_bytes: int) -> int:
    return -(-num_bytes // _PAGE_BYTES) * _PAGE_BYTES


_OPENED: WeakKeyDictionary[dist.ProcessGroup, Mailboxes | None] = WeakKeyDictionary()
_NODE = 0  # of the job, that this rank is on


def be_on(node: int) -> None:
    """Say which of the job's machines this is. Several may be one, to try a job of several: they share no memory."""
    global _NODE
    _NODE = node


def mailboxes(group: dist.ProcessGroup) -> Mailboxes | None:
    """The group's, opened by its first collective, which every rank calls; None unless all can share memory."""
    if group not in _OPENED:
        _OPENED[group] = _open(group) if _may_open(group.size()) else None
    return _OPENED[group]


def _may_open(size: int) -> bool:
    return futex.is_here() and 1 < size <= MOST_RANKS


def _open(group: dist.ProcessGroup) -> Mailboxes | None:
    num_bytes = Layout.of(group.size()).end
    with contextlib.ExitStack() as stack:
        token, first = secrets.randbits(62), -1
        if group.rank() == 0:
            with contextlib.suppress(OSError):
                first = os.memfd_create(_name(token))
                stack.callback(os.close, first)
                os.ftruncate(first, num_bytes)
        told = _tell(group, [os.getpid(), first, token, _NODE])
        pid, descriptor, token, node = told[0]
        memory = _mapped(pid, descriptor, token, num_bytes) if node == _NODE else None
        everybody_has = all(has for (has,) in _tell(group, [memory is not None]))  # before the first closes it
    if memory is None or not everybody_has:
        return None
    backend: Any = group._get_backend(torch.device("cpu"))
    return Mailboxes(group.rank(), [pid for pid, *_ in told], memory, backend.options._timeout.total_seconds())


def _name(token: int) -> str:
    return f"grok1-{token:016x}"


def _mapped(pid: int, descriptor: int, token: int, num_bytes: int) -> mmap.mmap | None:
    """The memory that the group's first rank made; None on another machine, or where its process is out of sight."""
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        if _name(token) not in os.readlink(path):  # another process of that number
            return None
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(opened, num_bytes)
    except (OSError, ValueError):  # there was no room for so much
        return None
    finally:
        os.close(opened)


def _tell(group: dist.ProcessGroup, mine: Sequence[int]) -> list[list[int]]:
    """These numbers of every rank; a collective that is not counted, as the run did not ask for it."""
    told = torch.tensor(mine, dtype=torch.int64)
    everybodys = [torch.empty_like(told) for _ in range(group.size())]
    group.allgather([everybodys], [told]).wait()
    return [each.tolist() for each in everybodys]

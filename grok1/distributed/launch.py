"""Starting ranks: N processes on this machine from one forkserver, watched until all end or one fails.

The forkserver imports torch, megatron and the entry's module once and forks the ranks. This takes seconds where
separate interpreters take minutes. This module imports none of them, so a command that refuses its input does so at
once. What the ranks run is the caller's choice: an entry point, "module:function".
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import psutil

from grok1.config.memory import SMALLER, need, what_fits
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind, check_choices, set_kind
from grok1.distributed.environment import (
    bare_address,
    check_environment,
    hccl_buffer_mb,
    short_temporary_folder,
    tcp_url,
    temporary_folder,
)
from grok1.distributed.failure import MAX_DETAILS, Failure, cause
from grok1.distributed.link import NodeLink, linked
from grok1.distributed.memory_limit import oom_kills
from grok1.distributed.nodes import ONE_MACHINE, Nodes, Terms, common_terms
from grok1.distributed.rank_process import leave_backends_to_the_seam, rank_main
from grok1.distributed.rendezvous import COLLECTIVE_SECONDS, Rendezvous
from grok1.distributed.watchdog import LOOK_SECONDS, Watchdog
from grok1.megatron.installed import check_has_grouped_experts, megatron_line

_SHARE_OF_FREE_MEMORY = 0.9  # on a CPU other programs want some; a device's memory is all ours
_PROCESS_BYTES = 128 << 20  # what a rank needs beside its model: torch's and gloo's own, not shared with the forkserver
# glibc gives freed memory back and faults it in again, some hundred to thousand pages a step and never the same
# number: 2 ms of a 55 ms step, and more noise than anything we measure. And it keeps a heap for each thread that
# allocates: what gloo's threads free does not serve the step's own tensors, and a rank grows by a third. Read when a
# process starts.
_MEMORY_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_ARENA_MAX": "1",
}
_PRELOADED: dict[str, None] = {}  # modules for the forkserver, in the order in which they were named
_SETTLE_SECONDS = 2.0  # after a first failure, time for an earlier one to arrive
_STOP_SECONDS = 3.0
_UNKNOWN_EXIT = 255  # what multiprocessing says where the forkserver cannot tell

OnEvent = Callable[[Any], None]  # gets what an entry emits: whatever the entry and its caller agreed on


class LaunchError(ValueError):
    """The job cannot start here; the message says why and what to do."""


class RankFailedError(RuntimeError):
    """A rank raised or died, here or on another node; carries which and its traceback.

    On a job of several nodes the first line says all: the rank, its node and the cause.
    """

    def __init__(self, rank: int, details: str, line: str = "") -> None:
        self.rank, self.details = rank, details
        first, rest = line or f"rank {rank} failed:", details.rstrip()
        super().__init__(first if line and "\n" not in rest else f"{first}\n{rest}")


class NodeFailedError(RuntimeError):
    """A node of the job was lost or ended; the message is one line that names it."""


def launch(
    job: object,
    recipe: Recipe,
    device: Kind,
    nodes: Nodes = ONE_MACHINE,
    on_event: OnEvent = lambda event: None,
    *,
    entry: str,
    timeout_seconds: float = COLLECTIVE_SECONDS,
    terms: Terms | None = None,
    progress_seconds: float | None = None,
) -> Any:
    """Run `entry(job, rendezvous, emit)` on every rank of this machine; returns what its first rank returned.

    `entry` is "module:function". `job` and the result are pickled; `on_event` gets what a rank emits. A collective
    that takes longer than `timeout_seconds` fails. `terms` is what all nodes must have in common beside the recipe,
    the code and the versions: what the job does. `progress_seconds` without a step end the job; None: by the steps'
    own time (see `Watchdog`), 0: never.

    Raises:
        LaunchError, DeviceError: the job does not fit this machine or this device; nothing was started.
        ValueError: the nodes are not all there, or do not run the same.
        RankFailedError: a rank failed, here or on another node; all others were ended.
        NodeFailedError: another node was lost, or its launcher ended; all ranks were ended.
    """
    world_size = recipe.parallel.world_size
    local = local_ranks(nodes, world_size)
    if nodes.nnodes > 1:
        nodes = replace(nodes, master_addr=bare_address("--master-addr", nodes.master_addr))
    check_machine(recipe, device, local)
    context = rank_context(device, entry.partition(":")[0])
    with (
        tempfile.TemporaryDirectory(prefix="grok1-", dir=temporary_folder()) as folder,
        linked(nodes, lambda: {**(terms or {}), **common_terms(recipe, device)}) as link,
    ):
        url = f"file://{folder}/rendezvous"
        if nodes.nnodes > 1:
            url = tcp_url(nodes.master_addr, nodes.master_port)
        ranks: list[tuple[BaseProcess, Connection]] = []
        name = link.name if link is not None else ""
        watch = _Watch(nodes.node_rank * local, on_event, link, Watchdog(Path(folder), progress_seconds, name))
        try:
            for index in range(local):
                where = Rendezvous(url, watch.first_rank + index, world_size, index, local, timeout_seconds)
                _start(ranks, context, entry, job, recipe, where, folder)
            result = watch.until_done(ranks)
        finally:
            _stop([process for process, _ in ranks])
        watch.until_all_ended()
        return result


def local_ranks(nodes: Nodes, world_size: int) -> int:
    """How many ranks run on this machine.

    Raises:
        LaunchError: the nodes do not make up the job.
    """
    if not 0 <= nodes.node_rank < nodes.nnodes:
        raise LaunchError(f"--node-rank {nodes.node_rank} is not below --nnodes {nodes.nnodes}")
    local = nodes.nproc_per_node or world_size // nodes.nnodes
    if local * nodes.nnodes != world_size:
        raise LaunchError(
            f"{nodes.nnodes} nodes x {local} processes are not the recipe's {world_size} ranks; "
            "change --nnodes, --nproc-per-node or --set parallel.world_size"
        )
    return local


def check_machine(recipe: Recipe, device: Kind, local_ranks: int) -> None:
    """Refuse what this machine cannot hold or compute, before any process starts; its megatron-core first."""
    check_environment(device, local_ranks, recipe.parallel.world_size)
    megatron_line(device)
    buffer_mb = hccl_buffer_mb(device)
    if device == "cpu":
        available = int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)
        needed, where = (recipe.bytes_per_rank() + _PROCESS_BYTES) * local_ranks, f"{local_ranks} ranks on this machine"
    else:
        leave_backends_to_the_seam()
        from grok1.device import seam

        seam.check_available(device, local_ranks)
        available = seam.memory_bytes(device)
        parts = need(recipe, buffer_mb=buffer_mb)
        needed, where = parts.total, f"one rank on {device} ({parts.told})"
    if recipe.kernels.experts == "grouped" and device != "cpu":  # which has none on any line
        check_has_grouped_experts()
    check_choices(recipe, device)
    if needed > available:
        remedy = SMALLER if device == "cpu" else what_fits(recipe, available, buffer_mb)
        raise LaunchError(
            f"recipe {recipe.name} needs about {needed / 2**30:.1f} GiB for {where}, of which "
            f"{available / 2**30:.1f} GiB can be used; {remedy}"
        )


def preload_in_ranks(*modules: str) -> None:
    """Have the forkserver import these modules, whichever entry comes first; call it before any rank starts.

    For programs that launch several entries. The forkserver starts once, and imports only what it knows of by then.
    """
    _PRELOADED.update(dict.fromkeys(modules))


def rank_context(device: Kind, *modules: str) -> multiprocessing.context.ForkServerContext:
    """The forkserver, with the environment that its ranks inherit. A process has one device, for good.

    On a CPU the forkserver imports `modules` before it forks. It starts once, so those of the first call count.
    """
    set_kind(device)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    if device == "cpu":
        for name, value in _MEMORY_SETTINGS.items():
            os.environ.setdefault(name, value)
        # multiprocessing runs the script of the launcher's command again in each rank: its imports should be done
        command = ["pytest"] if "pytest" in sys.modules else []
        context.set_forkserver_preload([*command, "grok1.distributed.preload", *_PRELOADED, *modules])
    else:
        # a driver that was asked anything before the fork does not work after it: each rank imports for itself
        context.set_forkserver_preload([])
        # megatron's tensor parallelism hides communication behind the GEMMs only with one queue
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    return context


def _start(
    ranks: list[tuple[BaseProcess, Connection]],
    context: multiprocessing.context.ForkServerContext,
    entry: str,
    job: object,
    recipe: Recipe,
    where: Rendezvous,
    folder: str,
) -> None:
    """Add a rank to those that are to be stopped, and start it."""
    ours, theirs = context.Pipe()
    process = context.Process(target=rank_main, args=(entry, job, recipe, where, theirs, folder))
    ranks.append((process, ours))
    with short_temporary_folder(), _deaf_to_ctrl_c():  # the first start makes the forkserver and its socket
        process.start()
    theirs.close()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started in the block never hears Ctrl-C, not even in its imports: it is this process's to handle.

    This process hears of it when the block is done.
    """
    resource_tracker.ensure_running()  # else the forkserver's start begins with it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Watch:
    """Reads the ranks' messages until all are done, here and on the other nodes, or one has failed."""

    def __init__(self, first_rank: int, on_event: OnEvent, link: NodeLink | None, watchdog: Watchdog) -> None:
        self.first_rank = first_rank
        self._on_event = on_event
        self._link = link
        self._watchdog = watchdog
        self._oom_kills = oom_kills()
        self._node = link.name if link is not None else ""
        self._ranks: dict[int, tuple[BaseProcess, Connection]] = {}
        self._results: dict[int, object] = {}
        self._failures: list[Failure] = []

    def until_done(self, ranks: list[tuple[BaseProcess, Connection]]) -> object:
        """What the first rank of this machine returned."""
        self._ranks = dict(enumerate(ranks, start=self.first_rank))
        while self._ranks and not self._failures:
            self._poll(LOOK_SECONDS, self._link)
            if not self._failures:
                self._failures += self._watchdog.look(self._processes())
        if self._link is not None and not self._failures:
            self._failures += self._link.all_done()
        if self._failures:
            if self._ranks and all(failure.kind == "stalled" for failure in self._failures):
                self._failures += self._watchdog.accuse(self._processes())  # another node's ranks wait for some here
            deadline = time.monotonic() + _SETTLE_SECONDS
            while self._ranks and time.monotonic() < deadline:
                self._poll(deadline - time.monotonic(), None)
            self._raise_cause()
        return self._results[self.first_rank]

    def _processes(self) -> dict[int, int]:
        """The ids of those that are not yet done, by rank."""
        return {rank: process.pid for rank, (process, _) in self._ranks.items() if process.pid is not None}

    def until_all_ended(self) -> None:
        """Wait for the other nodes' ranks to have ended: only then does the run count."""
        if self._link is not None:
            self._failures += self._link.all_ended()
            if self._failures:
                self._raise_cause()

    def _poll(self, timeout: float | None, link: NodeLink | None) -> None:
        watched: list[Connection | int] = [pipe for _, pipe in self._ranks.values()]
        if link is not None:
            watched.append(link.fileno())
        ready = wait(watched, timeout)
        for rank, (_, pipe) in [item for item in self._ranks.items() if item[1][1] in ready]:
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._ended_silently(rank)
            else:
                self._handle(rank, message)
        if link is not None and link.fileno() in ready:
            self._failures += link.failures()

    def _handle(self, rank: int, message: tuple[Any, ...]) -> None:
        kind, *content = message
        if kind == "event":
            self._on_event(content[0])
            return
        if kind == "result":
            self._results[rank] = content[0]
        else:
            when, details, *_ = content
            self._fail(kind, rank, details, when)
        del self._ranks[rank]

    def _ended_silently(self, rank: int) -> None:
        process, _ = self._ranks.pop(rank)
        process.join(_STOP_SECONDS)
        code = process.exitcode
        self._fail("died", rank, f"the process {_how(code)} without a word{self._memory_hint(code)}", time.time())

    def _memory_hint(self, code: int | None) -> str:
        """Where the kernel counts a process that it ended for want of memory, that was it."""
        if oom_kills() > self._oom_kills:
            return "; the memory limit ended it: use fewer ranks, a smaller recipe, or a higher limit"
        return "; the machine may be out of memory" if code == -signal.SIGKILL else ""

    def _fail(self, kind: Any, rank: int, details: str, when: float) -> None:
        self._failures.append(Failure(kind=kind, when=when, rank=rank, node=self._node, details=details[-MAX_DETAILS:]))

    def _raise_cause(self) -> NoReturn:
        """A dead rank explains the errors of those that talked to it; else the earliest failure does."""
        failure = cause(self._failures)
        if self._link is not None:
            failure = self._link.agreed(failure)
        line = failure.line() if failure.node else ""
        if failure.rank is None:
            raise NodeFailedError(line or failure.details)
        if failure.kind == "refused":
            raise LaunchError(line or failure.details)
        if failure.kind == "undone":
            line = line or failure.details
        raise RankFailedError(failure.rank, failure.details, line)


def _how(code: int | None) -> str:
    if code == _UNKNOWN_EXIT:
        return "ended, and so did the forkserver that started it,"
    return f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _stop(processes: list[BaseProcess]) -> None:
    processes = [each for each in processes if each.pid is not None]  # the others were never started
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()

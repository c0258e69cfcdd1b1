"""Starting ranks: N processes on this machine from one forkserver, watched until all end or one fails.

The forkserver imports torch, megatron and the entry's module once and forks the ranks. This takes seconds where
separate interpreters take minutes. This module imports none of them, so a command that refuses its input does so at
once. What the ranks run is the caller's choice: an entry point, "module:function".
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from grok1.config.memory import HCCL_BUFFER_MB, need, what_fits
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind, check_choices, set_kind
from grok1.distributed.rank_process import leave_backends_to_the_seam, rank_main
from grok1.distributed.rendezvous import Rendezvous

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
# multiprocessing runs the script of the launcher's command again in each rank, which should find its imports done
_COMMANDS = ("pytest", "grok1.__main__")
_PRELOADED: dict[str, None] = {}  # modules for the forkserver, in the order in which they were named
_SETTLE_SECONDS = 2.0  # after a first failure, time for an earlier one to arrive
_STOP_SECONDS = 3.0

OnEvent = Callable[[Any], None]  # gets what an entry emits: whatever the entry and its caller agreed on


class LaunchError(ValueError):
    """The job cannot start here; the message says why and what to do."""


class RankFailedError(RuntimeError):
    """A rank raised or died; carries which and its traceback."""

    def __init__(self, rank: int, details: str) -> None:
        self.rank, self.details = rank, details
        super().__init__(f"rank {rank} failed:\n{details.rstrip()}")


@dataclass(frozen=True)
class Nodes:
    """The machines of a job and which of them this is."""

    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    nproc_per_node: int | None = None

    def local_ranks(self, world_size: int) -> int:
        """How many ranks run on this machine."""
        if not 0 <= self.node_rank < self.nnodes:
            raise LaunchError(f"--node-rank {self.node_rank} is not below --nnodes {self.nnodes}")
        local = self.nproc_per_node or world_size // self.nnodes
        if local * self.nnodes != world_size:
            raise LaunchError(
                f"{self.nnodes} nodes x {local} processes are not the recipe's {world_size} ranks; "
                "change --nnodes, --nproc-per-node or --set parallel.world_size"
            )
        return local


ONE_MACHINE = Nodes()


def launch(
    job: object,
    recipe: Recipe,
    device: Kind,
    nodes: Nodes = ONE_MACHINE,
    on_event: OnEvent = lambda event: None,
    *,
    entry: str,
    timeout_seconds: float = 600.0,
) -> Any:
    """Run `entry(job, rendezvous, emit)` on every rank of this machine; returns what its first rank returned.

    `entry` is "module:function". `job` and the result are pickled; `on_event` gets what a rank emits.

    Raises:
        LaunchError, DeviceError: the job does not fit this machine or this device; nothing was started.
        RankFailedError: a rank failed; all others were ended.
    """
    world_size = recipe.parallel.world_size
    local = nodes.local_ranks(world_size)
    check_machine(recipe, device, local)
    context = rank_context(device, entry.partition(":")[0])
    with tempfile.TemporaryDirectory(prefix="grok1-") as folder:
        url = f"file://{folder}/rendezvous"
        if nodes.nnodes > 1:
            url = f"tcp://{nodes.master_addr}:{nodes.master_port}"
            if nodes.node_rank == 0:
                _check_port_free(nodes.master_port)
        ranks = []
        try:
            for index in range(local):
                rank = nodes.node_rank * local + index
                where = Rendezvous(url, rank, world_size, index, local, timeout_seconds)
                ranks.append(_start(context, entry, job, recipe, where))
            return _Watch(ranks, on_event).until_done()
        finally:
            _stop([process for process, _ in ranks])


def check_machine(recipe: Recipe, device: Kind, local_ranks: int) -> None:
    """Refuse what this machine cannot hold or compute, before any process starts."""
    if device == "cpu":
        available = int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)
        needed, where = (recipe.bytes_per_rank() + _PROCESS_BYTES) * local_ranks, f"{local_ranks} ranks on this machine"
        remedy = "choose a smaller recipe, or split it over more ranks"
    else:
        leave_backends_to_the_seam()
        from grok1.device import seam

        seam.check_available(device, local_ranks)
        available = seam.memory_bytes(device)
        buffer_mb = int(os.environ.get("HCCL_BUFFSIZE", HCCL_BUFFER_MB)) if device == "npu" else 0
        parts = need(recipe, buffer_mb=buffer_mb)
        needed, where = parts.total, f"one rank on {device} ({parts.told})"
        remedy = what_fits(recipe, available, buffer_mb)
    check_choices(recipe, device)
    if needed > available:
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
        commands = [name for name in _COMMANDS if name in sys.modules]
        context.set_forkserver_preload([*commands, "grok1.distributed.preload", *_PRELOADED, *modules])
    else:
        # a driver that was asked anything before the fork does not work after it: each rank imports for itself
        context.set_forkserver_preload([])
        # megatron's tensor parallelism hides communication behind the GEMMs only with one queue
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    return context


def _check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise LaunchError(f"port {port} cannot be used ({error.strerror}); choose another --master-port") from None


def _start(
    context: multiprocessing.context.ForkServerContext, entry: str, job: object, recipe: Recipe, where: Rendezvous
) -> tuple[BaseProcess, Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=rank_main, args=(entry, job, recipe, where, theirs))
    process.start()
    theirs.close()
    return process, ours


class _Watch:
    """Reads the ranks' messages until all are done or one has failed."""

    def __init__(self, ranks: list[tuple[BaseProcess, Connection]], on_event: OnEvent) -> None:
        self._ranks = dict(enumerate(ranks))
        self._on_event = on_event
        self._results: dict[int, object] = {}
        self._failures: list[tuple[float, int, str, str]] = []  # (when, rank, kind, details)

    def until_done(self) -> object:
        while self._ranks and not self._failures:
            self._poll(None)
        if self._failures:
            deadline = time.monotonic() + _SETTLE_SECONDS
            while self._ranks and time.monotonic() < deadline:
                self._poll(deadline - time.monotonic())
            self._raise_first()
        return self._results[0]

    def _poll(self, timeout: float | None) -> None:
        ready = wait([pipe for _, pipe in self._ranks.values()], timeout)
        for rank, (_, pipe) in [item for item in self._ranks.items() if item[1][1] in ready]:
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._ended_silently(rank)
            else:
                self._handle(rank, message)

    def _handle(self, rank: int, message: tuple[Any, ...]) -> None:
        kind, *content = message
        if kind == "event":
            self._on_event(content[0])
            return
        if kind == "result":
            self._results[rank] = content[0]
        else:
            when, details, *_ = content
            self._failures.append((when, rank, kind, details))
        del self._ranks[rank]

    def _ended_silently(self, rank: int) -> None:
        process, _ = self._ranks.pop(rank)
        process.join(_STOP_SECONDS)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        hint = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
        self._failures.append((time.time(), rank, "died", f"the process {how} without a word{hint}"))

    def _raise_first(self) -> None:
        """A dead rank explains the errors of those that talked to it; else the earliest failure does."""
        dead = [failure for failure in self._failures if failure[2] == "died"]
        _, rank, kind, details = min(dead or self._failures)
        if kind == "refused":
            raise LaunchError(details)
        raise RankFailedError(rank, details)


def _stop(processes: list[BaseProcess]) -> None:
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

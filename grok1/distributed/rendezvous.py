"""How the ranks of a job find each other: from the launcher, torchrun or Slurm. No torch."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from grok1.distributed.environment import bare_address, shown, tcp_url, whole_number

MOST_SECONDS = 7 * 24 * 3600.0  # that anybody may be asked to wait
COLLECTIVE_SECONDS = 600.0  # that one may take, unless told otherwise: a first step on an accelerator compiles
# that ranks of torchrun or Slurm wait for each other, unless told otherwise: thousands that read torch from one disk,
# and the first of each node may read a corpus or a checkpoint through, while the others wait here
COME_SECONDS = 600.0
_MOST_RANKS = 1 << 20
_TORCHRUN = "start with torchrun, which sets it, or unset RANK and WORLD_SIZE"
_SLURM = "start with srun, which sets it"
FILE_URL = "file://"  # a rendezvous on one machine: the rest is the path as it is, nothing in it is escaped
FAKE_URL = "fake://"  # a rendezvous with nobody, for a rank that computes nothing (see grok1.training.fake_step)


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks of a job find each other: `file:///...` on one machine, `tcp://host:port` on several."""

    url: str
    rank: int
    world_size: int
    local_rank: int
    ranks_per_node: int
    timeout_seconds: float = COLLECTIVE_SECONDS  # that a collective may take
    host: str = ""
    terms: tuple[tuple[str, str], ...] = ()  # to be compared with the other ranks'; empty where a launcher has done so
    # without a step that end a job of ranks without a launcher of ours; None: by the steps' own time (see `progress`);
    # 0: never, and the ranks do not look after each other at all (see `heartbeat`)
    progress_seconds: float | None = None
    start_seconds: float = COME_SECONDS  # that ranks wait for each other
    has_store: bool = False  # torchrun's own process keeps the store at this address; else rank 0 does
    attempt: str = "0"  # torchrun starts ranks again after a failure, with the same store

    @property
    def beats(self) -> bool:
        """Whether ranks without a launcher of ours look after each other."""
        return self.progress_seconds != 0

    @property
    def is_one_machine(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.ranks_per_node == self.world_size

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `tcp://host:port`."""
        place = urlsplit(self.url)
        return place.hostname or "", place.port or 0

    @property
    def place(self) -> str:
        """As in "10.0.0.1 port 29500"."""
        host, port = self.address
        return f"{host} port {port}"

    @property
    def node(self) -> int:
        """The number of this rank's machine."""
        return self.rank // self.ranks_per_node

    @property
    def node_name(self) -> str:
        """As in "node 1 (host)"."""
        return f"node {self.node} ({self.host})"

    def interface(self) -> str | None:
        """The network interface on the way to rank 0's machine; None where it cannot be told.

        Left to itself, gloo takes the one of the host name, which on many machines no other machine reaches.
        """
        if not self.url.startswith("tcp://"):
            return "lo" if self.url.startswith(FILE_URL) else None
        place = urlsplit(self.url)
        try:
            found = socket.getaddrinfo(place.hostname, place.port, type=socket.SOCK_DGRAM)
            with socket.socket(*found[0][:2]) as probe:
                probe.connect(found[0][4])  # sends nothing: the kernel chooses the way
                own = probe.getsockname()[0]
        except OSError:
            return None
        return next(
            (name for name, addresses in psutil.net_if_addrs().items() if own in [each.address for each in addresses]),
            None,
        )


def rendezvous_from_environment(
    timeout_seconds: float = COLLECTIVE_SECONDS, start_seconds: float = COME_SECONDS
) -> Rendezvous | None:
    """Where torchrun or Slurm put this process, or None when neither started it.

    Raises:
        ValueError: a variable is missing or cannot be used, or started this process once for many ranks.
    """
    place = _place()
    if place is None:
        _check_no_mpi()
        return None
    rank, world, local, per_node = place
    address, port = _meeting_place()
    return Rendezvous(
        tcp_url(address, port),
        rank,
        world,
        local,
        per_node,
        timeout_seconds,
        start_seconds=start_seconds,
        has_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _place() -> tuple[int, int, int, int] | None:
    """Rank, ranks, rank on this node, ranks of a node; None where neither torchrun nor Slurm started this process."""
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return _by_torchrun()
    if "SLURM_NTASKS" in os.environ and whole_number("SLURM_NTASKS", 1, _MOST_RANKS, _SLURM) > 1:
        return _by_slurm()
    return None


def _by_torchrun() -> tuple[int, int, int, int]:
    """What torchrun sets, or a person in its place."""
    whole_number("RANK", 0, _MOST_RANKS, _TORCHRUN)
    world = whole_number("WORLD_SIZE", 1, _MOST_RANKS, _TORCHRUN)
    rank = whole_number("RANK", 0, world - 1, _TORCHRUN)
    per_node = whole_number("LOCAL_WORLD_SIZE", 1, world, _TORCHRUN) if "LOCAL_WORLD_SIZE" in os.environ else world
    local = whole_number("LOCAL_RANK", 0, per_node - 1, _TORCHRUN) if "LOCAL_RANK" in os.environ else 0
    return rank, world, local, per_node


def _by_slurm() -> tuple[int, int, int, int] | None:
    """The same from srun; None in a shell that `salloc` started, which is no task."""
    if "SLURM_PROCID" not in os.environ:
        return None
    world = whole_number("SLURM_NTASKS", 1, _MOST_RANKS, _SLURM)
    if not os.environ.get("SLURM_STEP_ID"):  # srun sets it; a batch script runs once, whatever SLURM_NTASKS says
        raise ValueError(
            f"SLURM_NTASKS is {world}, and this is the batch script, which runs once: start the ranks with "
            "`srun grok1 ...`, or start them all on this machine with `env -u SLURM_NTASKS grok1 ...`"
        )
    rank = whole_number("SLURM_PROCID", 0, world - 1, _SLURM)
    nodes = whole_number("SLURM_NNODES", 1, world, _SLURM) if "SLURM_NNODES" in os.environ else 1
    if world % nodes:
        raise ValueError(
            f"SLURM_NTASKS is {world} and SLURM_NNODES {nodes}: give every node as many tasks, with --ntasks-per-node"
        )
    local = whole_number("SLURM_LOCALID", 0, world - 1, _SLURM) if "SLURM_LOCALID" in os.environ else 0
    return rank, world, local, world // nodes


def _check_no_mpi() -> None:
    """mpirun would start as many launchers as it was told ranks."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if os.environ.get(name, "1") != "1":
            raise ValueError(
                f"{name} is {shown(os.environ[name])}: mpirun is not one of the programs that start ranks here; "
                f"use torchrun or srun, or start one `grok1` alone, with {name} unset"
            )


def _meeting_place() -> tuple[str, int]:
    address = os.environ.get("MASTER_ADDR", "")
    if not address.strip() or not os.environ.get("MASTER_PORT", "").strip():
        raise ValueError("MASTER_ADDR and MASTER_PORT are not set; export the first node's address and a free port")
    port = whole_number("MASTER_PORT", 1, 65535, "export a free port of the first node, like 29500")
    return bare_address("MASTER_ADDR", address), port


def first_rank_here() -> bool:
    """Whether this process does what one process of a node does: a launcher, or the node's first rank of a job."""
    try:
        place = _place()
    except ValueError:
        return True  # refused where the ranks meet; a launcher of ours takes no notice of it
    return place is None or place[2] == 0

"""How the ranks of a job find each other: from the launcher, torchrun or Slurm. No torch."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

COLLECTIVE_SECONDS = 600.0  # that one may take, unless told otherwise: a first step on an accelerator compiles
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

    @property
    def node_name(self) -> str:
        """As in "node 1 (host)"."""
        return f"node {self.rank // self.ranks_per_node} ({self.host})"

    def interface(self) -> str | None:
        """The network interface on the way to rank 0's machine; None where it cannot be told.

        Left to itself, gloo takes the one of the host name, which on many machines no other machine reaches.
        """
        if not self.url.startswith("tcp://"):
            return "lo" if self.url.startswith("file://") else None
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


def rendezvous_from_environment(timeout_seconds: float = COLLECTIVE_SECONDS) -> Rendezvous | None:
    """Where torchrun or Slurm put this process, or None when neither started it."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:  # torchrun
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local, per_node = (
            int(environment.get("LOCAL_RANK", "0")),
            int(environment.get("LOCAL_WORLD_SIZE", str(world))),
        )
    elif "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        rank, world = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
        local = int(environment.get("SLURM_LOCALID", "0"))
        per_node = world // int(environment.get("SLURM_NNODES", "1"))
    else:
        return None
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if not address or not port:
        raise ValueError("MASTER_ADDR and MASTER_PORT are not set; export the first node's address and a free port")
    return Rendezvous(f"tcp://{address}:{port}", rank, world, local, per_node, timeout_seconds)

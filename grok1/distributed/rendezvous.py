"""How the ranks of a job find each other: from the launcher, torchrun or Slurm. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

FAKE_URL = "fake://"  # a rendezvous with nobody, for a rank that computes nothing (see grok1.training.fake_step)


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks of a job find each other: `file:///...` on one machine, `tcp://host:port` on several."""

    url: str
    rank: int
    world_size: int
    local_rank: int
    ranks_per_node: int
    timeout_seconds: float = 600.0


def rendezvous_from_environment(timeout_seconds: float = 600.0) -> Rendezvous | None:
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

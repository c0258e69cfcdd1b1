"""Where the members of a group lie: how many share a node, and how fast they reach each other. No torch.

Ranks fill nodes in order, so that a group's stride, the distance of neighbours in ranks of the job, says which of its
members share a node. Rates are of one device and one way.
"""

from __future__ import annotations

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Floats, Ints


def members_in_node(ranks: Ints, stride: Ints, node_size: int) -> Ints:
    """Members of a group that lie in one node, at least the device itself."""
    return np.asarray(np.clip(node_size // stride, 1, ranks))


def nodes_of(ranks: Ints, inside: Ints) -> Ints:
    """Nodes over which a group of so many ranks lies, `inside` of them in each."""
    return np.asarray(-(-ranks // inside))


def node_rate(inside: Ints, device: Device) -> Floats:
    """Bytes/s at which a device sends to the others of its group in its node, all links that it may use together.

    On a full mesh these are `inside - 1` links, and none where the device is alone.
    """
    rate = device.links.bytes_a_second.value
    if device.links.kind == "full_mesh":
        return np.asarray(rate * np.maximum(1, inside - 1).astype(np.float64))
    return np.full(np.shape(inside), rate)


def nic_rate(crosses: bool, device: Device) -> float:
    """Bytes/s at which a device sends to other nodes; infinite where the profile has none and nothing `crosses`.

    Raises:
        ValueError: a group crosses nodes, and the profile has no rate for that.
    """
    nic = device.links.nic_bytes_a_second
    if nic is None and crosses:
        raise ValueError(
            f"device {device.name} states no nic_bytes_a_second, and a group crosses nodes of {device.node_size}; add "
            "it to the profile, or plan for fewer ranks"
        )
    return nic.value if nic is not None else np.inf

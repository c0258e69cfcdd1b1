"""Where the members of a group lie: how many share a node, and how fast they reach each other. No torch.

Ranks fill nodes in order. So nodes may split groups of one kind in different ways, and a step takes as long as with
the group that is split worst. By bytes it is the one of which some node holds the fewest members: by these few the ring
is as fast as their NICs together, and of an all-to-all they send most to other nodes. By calls it is the one that lies
over most nodes. Rates are of one device and one way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bench.plan.device import Device
from bench.plan.groups import Group
from bench.plan.layouts import Floats, Ints


@dataclass(frozen=True)
class Split:
    """How nodes split a kind of group, a row a layout: the worst of all groups of the job."""

    fewest: Ints  # members that a node holds of a group, at the least: all of them where no group crosses nodes
    nodes: Ints  # over which a group lies, at the most
    most: Ints  # members that a node holds of a group that lies over so many nodes


def unsplit(ranks: Ints) -> Split:
    """Of groups whose ranks all share a node."""
    return Split(ranks, np.ones_like(ranks), ranks)


def split_of(ranks: Ints, spacing: Ints | Group, node_size: int) -> Split:
    """How nodes of that size split groups. Of a mere stride, the groups are taken to nest in nodes."""
    if not isinstance(spacing, Group):
        return _evenly(ranks, np.asarray(np.clip(node_size // spacing, 1, ranks)))
    of = spacing
    even = _evenly(ranks, np.minimum(np.clip(node_size // of.stride, 1, of.ranks), ranks))
    found = np.stack([even.fewest, even.nodes, even.most])
    odd = np.flatnonzero(~_nests(of, node_size))
    if len(odd):
        block = of.stride * of.run * of.between * of.runs
        blocks = np.minimum(of.blocks, node_size // np.gcd(block, node_size))  # further ones lie as these do
        columns = np.stack([each[odd] for each in (of.stride, of.run, of.between, of.runs, blocks)])
        order = np.lexsort(columns)
        is_another = np.r_[True, (np.diff(columns[:, order]) != 0).any(axis=0)]
        kinds = columns[:, order[is_another]].T.tolist()
        splits = np.array([_worst(*kind, of.has_ends, node_size) for kind in kinds], np.int64).T
        found[:, odd[order]] = splits[:, np.cumsum(is_another) - 1]
    return Split(*found)


def _evenly(ranks: Ints, inside: Ints) -> Split:
    return Split(inside, np.asarray(-(-ranks // inside)), inside)


def _nests(of: Group, node_size: int) -> npt.NDArray[np.bool_]:
    """Where the stride says it all: a node is whole blocks of groups, a block of evenly spaced ones is whole nodes, or
    no two neighbours share a node.
    """
    block = of.stride * of.run * of.between * of.runs
    is_split_evenly = (of.stride >= node_size) | ((block % node_size == 0) & (node_size % of.stride == 0))
    is_even = (of.between * of.runs == 1) & (not of.has_ends)
    return np.asarray((of.world_size <= node_size) | (node_size % block == 0) | (is_even & is_split_evenly))


@lru_cache(maxsize=1 << 16)
def _worst(
    stride: int, run: int, between: int, runs: int, blocks: int, has_ends: bool, node_size: int
) -> tuple[int, int, int]:
    """(fewest, nodes, most) of one layout, by the node of every rank."""
    node: Ints = (np.arange(stride * run * between * runs * blocks) // node_size).reshape(
        -1, runs, between, run, stride
    )
    if has_ends:
        node = node[:, :, :, sorted({0, run - 1})]
    members = node.transpose(0, 2, 4, 1, 3).reshape(blocks * between * stride, -1)  # a group a row, in order
    begins = np.ones(members.shape, np.bool_)
    begins[:, 1:] = members[:, 1:] != members[:, :-1]
    sizes = np.diff(np.flatnonzero(begins), append=begins.size)  # of what a node holds of a group
    nodes = begins.sum(axis=1)
    is_over_most = np.repeat(nodes == nodes.max(), nodes)
    return int(sizes.min()), int(nodes.max()), int(sizes[is_over_most].max())


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

"""Seconds of collectives, by operation, group and bytes. No torch.

Bytes are those of a call's larger side, as the ledger counts them. A ring of n ranks sends (n - 1) / n of them from
each rank, an all-reduce twice that. A group within a node takes its links. One that crosses nodes is as fast as the
slower of the links inside and of the NICs of its members in a node together. An all-to-all sends to each peer apart:
what goes to other nodes takes the NIC, what stays takes the links, and the longer of the two counts. A pair of pipeline
stages takes one link, or the NIC where any of the group's pairs does.
"""

from __future__ import annotations

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Floats, Ints
from bench.plan.measured import TimedCollective, same_exchange
from bench.plan.topology import Split, nic_rate, node_rate, split_of, unsplit
from bench.plan.work import Exchange

_PAIRS = ("send", "receive")
_TIE = 1e-3  # what a job's size counts beside its group's
_ROUNDS = {"all_reduce": 2.0}  # of a ring: reducing, then gathering


def exchange_seconds(exchange: Exchange, device: Device, world_size: Ints | None = None) -> Floats:
    """Seconds of all calls together, a row a place; zero where there is no call or the group is one rank.

    A receive takes none: its time is the sender's. `world_size` is of the jobs: collectives that were timed in a job of
    about as many ranks are believed first.
    """
    timed = _timed(exchange.operation, device)
    if exchange.operation == "receive":
        return np.zeros(len(exchange.calls))
    job = exchange.ranks if world_size is None else world_size
    seconds = _by_table(exchange, job, timed, device.cores) if timed else _by_rates(exchange, device)
    return np.asarray(np.where((exchange.ranks > 1) & (exchange.calls > 0), seconds, 0.0))


def _by_rates(exchange: Exchange, device: Device) -> Floats:
    # cores that ranks share are one machine's
    split = unsplit(exchange.ranks) if device.cores else split_of(exchange.ranks, exchange.spacing, device.node_size)
    waiting = exchange.calls * _call_seconds(exchange, split, device)
    moving = exchange.bytes * _byte_seconds(exchange, split.fewest, device) / _share(exchange, device)
    return np.asarray(waiting + moving)


def _call_seconds(exchange: Exchange, split: Split, device: Device) -> Floats:
    """alpha: of a call, and more for each further rank in the node and for each further node."""
    links, special = device.links, device.operations.get(exchange.operation)
    call, rank = links.call_seconds, links.rank_seconds
    if special:
        call, rank = special.call_seconds or call, special.rank_seconds or rank
    if exchange.operation in _PAIRS:
        return np.full(len(exchange.calls), call.value)
    of_nodes = links.nic_rank_seconds.value * (split.nodes - 1)
    return np.asarray(call.value + rank.value * (split.most - 1) + of_nodes)


def _byte_seconds(exchange: Exchange, inside: Ints, device: Device) -> Floats:
    """1 / beta of the call's larger side, by the links' stated rates."""
    ranks = exchange.ranks
    crosses = inside < ranks
    nic = nic_rate(bool((crosses & (exchange.calls > 0)).any()), device)
    links = node_rate(inside, device)
    if exchange.operation in _PAIRS:
        return np.asarray(1 / np.where(crosses, nic, device.links.bytes_a_second.value))
    if exchange.operation.startswith("all_to_all"):
        return np.asarray(np.maximum((inside - 1) / ranks / links, (ranks - inside) / ranks / nic))
    ring = np.where(inside > 1, links, np.inf)
    slowest = np.where(crosses, np.minimum(ring, inside * nic), links)
    return np.asarray(_ROUNDS.get(exchange.operation, 1.0) * (ranks - 1) / ranks / slowest)


def _share(exchange: Exchange, device: Device) -> float:
    special = device.operations.get(exchange.operation)
    share = special.share if special and special.share else device.efficiency.exchange
    return share.value


# ---- what was timed on the device itself -----------------------------------------------------------------


def _timed(operation: str, device: Device) -> list[TimedCollective]:
    timed, name = device.measured.collectives if device.measured else [], same_exchange(operation)
    return [each for each in timed if each.operation == name]


def _by_table(exchange: Exchange, job_ranks: Ints, timed: list[TimedCollective], cores: int | None) -> Floats:
    """By the timed call whose group, and then whose job, has the nearest number of ranks.

    Where ranks share cores only bytes count: who waits in a call leaves its core to others.
    """
    groups = _apart(exchange.ranks, [each.ranks for each in timed])
    jobs = _apart(job_ranks, [each.job_ranks or each.ranks for each in timed])
    nearest = np.asarray(groups + _TIE * jobs).argmin(axis=1)
    call = np.array([each.call_seconds for each in timed])[nearest] * (job_ranks <= (cores or np.inf))
    rate = np.array([each.bytes_a_second for each in timed])[nearest]
    return np.asarray(exchange.calls * call + exchange.bytes / rate)


def _apart(wanted: Ints, sizes: list[int]) -> Floats:
    """[places, sizes]: how many times one is the other, as a logarithm."""
    return np.asarray(np.abs(np.log(wanted)[:, None] - np.log(sizes)))

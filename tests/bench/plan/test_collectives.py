"""Seconds of collectives: laws that hold of any group, and figures by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.collectives import exchange_seconds
from bench.plan.device import Device, load_device
from bench.plan.measured import Measured, TimedCollective
from bench.plan.topology import node_rate, split_of
from bench.plan.work import Exchange

OPERATIONS = (
    "all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "all_to_all_single", "broadcast", "send",
)  # fmt: skip
DEVICES = ("ascend-a2-376t", "a100-sxm", "h100-sxm", "gb200")
GIB = 2**30


def exchange(operation: str, ranks: int, stride: int, call_bytes: int = GIB, calls: int = 1) -> Exchange:
    column = {name: np.array([value], np.int64) for name, value in (("ranks", ranks), ("spacing", stride))}
    return Exchange(
        "forward", "tensor", operation, "bfloat16", "micro_batch", calls=np.array([calls], np.int64),
        bytes=np.array([calls * call_bytes], np.int64), **column,
    )  # fmt: skip


def seconds(device: Device, *args: Any, **kwargs: Any) -> float:
    (found,) = exchange_seconds(exchange(*args, **kwargs), device)
    return float(found)


def with_links(device: Device, **factors: float) -> Device:
    """The device with links' figures multiplied."""
    links = device.links
    update = {
        name: each.model_copy(update={"value": each.value * factor})
        for name, factor in factors.items()
        if (each := getattr(links, name)) is not None
    }
    return device.model_copy(update={"links": links.model_copy(update=update)})


def without_latency(device: Device) -> Device:
    bare = with_links(device, call_seconds=0, rank_seconds=0, nic_rank_seconds=0)
    return bare.model_copy(update={"operations": {}})


GROUPS = {
    "operation": st.sampled_from(OPERATIONS),
    "ranks": st.integers(1, 256),
    "stride": st.sampled_from([1, 2, 4, 8, 16, 64]),
    "call_bytes": st.integers(0, 2**40),
}


@given(name=st.sampled_from(DEVICES), **GROUPS)
def test_one_rank_and_no_calls_take_no_time(
    name: str, operation: str, ranks: int, stride: int, call_bytes: int
) -> None:
    device = load_device(name)
    assert seconds(device, operation, 1, stride, call_bytes) == 0
    assert seconds(device, operation, ranks, stride, call_bytes, calls=0) == 0
    assert seconds(device, "receive", ranks, stride, call_bytes) == 0
    assert ranks == 1 or seconds(device, operation, ranks, stride, call_bytes) > 0


@given(name=st.sampled_from(DEVICES), **GROUPS)
def test_half_of_every_rate_takes_twice_as_long(
    name: str, operation: str, ranks: int, stride: int, call_bytes: int
) -> None:
    device = without_latency(load_device(name))
    slow = with_links(device, bytes_a_second=0.5, nic_bytes_a_second=0.5)
    expected = 2 * seconds(device, operation, ranks, stride, call_bytes)
    assert seconds(slow, operation, ranks, stride, call_bytes) == pytest.approx(expected)


@given(name=st.sampled_from(DEVICES), link=st.floats(1, 9), nic=st.floats(1, 9), more=st.integers(0, 2**40), **GROUPS)
def test_faster_links_never_take_longer_and_more_bytes_never_shorter(
    name: str, link: float, nic: float, more: int, operation: str, ranks: int, stride: int, call_bytes: int
) -> None:
    device = load_device(name)
    base = seconds(device, operation, ranks, stride, call_bytes)
    fast = with_links(device, bytes_a_second=link, nic_bytes_a_second=nic)
    assert seconds(fast, operation, ranks, stride, call_bytes) <= base * (1 + 1e-12)
    assert seconds(device, operation, ranks, stride, call_bytes + more) >= base


def test_a_group_of_a_full_mesh_drives_the_links_among_its_members() -> None:
    device = load_device("ascend-a2-376t")
    assert node_rate(np.array([1, 2, 4, 8]), device).tolist() == [28e9, 28e9, 84e9, 196e9]
    bare = without_latency(device).with_efficiency(exchange=1.0)
    # a rank of two sends half of the larger side over its one link, a rank of eight seven eighths over seven
    assert seconds(bare, "all_gather_into_tensor", 2, 1) == pytest.approx(GIB / 2 / 28e9)
    assert seconds(bare, "all_gather_into_tensor", 8, 1) == pytest.approx(GIB / 8 / 28e9)
    assert seconds(bare, "all_to_all_single", 8, 1) == pytest.approx(GIB / 8 / 28e9)
    assert seconds(bare, "all_reduce", 8, 1) == pytest.approx(2 * GIB / 8 / 28e9)
    assert seconds(bare, "send", 4, 2) == pytest.approx(GIB / 28e9)


def test_a_group_that_crosses_nodes_takes_the_nics() -> None:
    bare = without_latency(load_device("h100-sxm")).with_efficiency(exchange=1.0)
    assert seconds(bare, "all_gather_into_tensor", 4, 8) == pytest.approx(GIB * 3 / 4 / 50e9)
    # two members a node have two NICs; eight of them are no faster than the links inside
    assert seconds(bare, "all_gather_into_tensor", 4, 4) == pytest.approx(GIB * 3 / 4 / 100e9)
    assert seconds(bare, "all_gather_into_tensor", 16, 1) == pytest.approx(GIB * 15 / 16 / 400e9)
    # on a full mesh, eight NICs of 25 GB/s are faster than the seven links of 28 GB/s
    mesh = without_latency(load_device("ascend-a2-376t")).with_efficiency(exchange=1.0)
    assert seconds(mesh, "all_gather_into_tensor", 16, 1) == pytest.approx(GIB * 15 / 16 / 196e9)
    # of an all-to-all, what goes to the eight of the other node
    assert seconds(bare, "all_to_all_single", 16, 1) == pytest.approx(GIB * 8 / 16 / 50e9)
    assert seconds(bare, "send", 4, 4) == pytest.approx(GIB / 50e9)


def test_members_of_a_group_by_its_stride() -> None:
    ranks, stride = np.array([8, 8, 8, 2, 1, 64]), np.array([1, 4, 16, 2, 1, 1])
    found = split_of(ranks, stride, 8)
    assert found.fewest.tolist() == found.most.tolist() == [8, 2, 1, 2, 1, 8]
    assert found.nodes.tolist() == [1, 4, 8, 1, 1, 8]
    assert split_of(np.array([12]), np.array([1]), 8).nodes.tolist() == [2]


def test_a_device_of_one_node_refuses_groups_that_leave_it() -> None:
    links = load_device("h100-sxm").links.model_copy(update={"nic_bytes_a_second": None})
    alone = load_device("h100-sxm").model_copy(update={"links": links})
    assert seconds(alone, "all_reduce", 8, 1) > 0
    with pytest.raises(ValueError, match="h100-sxm states no nic_bytes_a_second, and a group crosses nodes of 8"):
        seconds(alone, "all_reduce", 16, 1)


def test_latency_is_of_the_call_and_of_its_ranks_and_nodes() -> None:
    device = load_device("h100-sxm")
    assert seconds(device, "all_to_all_single", 8, 1, 0) == pytest.approx(10e-6 + 7 * 0.5e-6)
    assert seconds(device, "all_to_all_single", 8, 4, 0, calls=3) == pytest.approx(3 * (10e-6 + 0.5e-6 + 3 * 1.5e-6))
    assert seconds(load_device("a100-sxm"), "all_reduce", 8, 1, 0) == pytest.approx(29e-6 + 7 * 7.5e-6)


def test_the_published_all_reduces_of_a100_within_a_node() -> None:
    """1 MiB takes 44, 51 and 93 us on 2, 4 and 8 ranks; 1 GiB moves at 197, 222 and 229 GB/s of bus bandwidth."""
    device = load_device("a100-sxm")
    for ranks, expected in ((2, 44e-6), (4, 51e-6), (8, 93e-6)):
        assert seconds(device, "all_reduce", ranks, 1, 2**20) == pytest.approx(expected, rel=0.25)
    for ranks, rate in ((2, 197e9), (4, 222e9), (8, 229e9)):
        expected = 2 * (ranks - 1) / ranks * GIB / rate
        assert seconds(device, "all_reduce", ranks, 1, GIB) == pytest.approx(expected, rel=0.2)


def test_timed_collectives_take_the_place_of_rates() -> None:
    timed = [
        TimedCollective(
            operation="all_reduce", ranks=ranks, call_seconds=ranks * 1e-3, bytes_a_second=1e9, residual=0.1
        )
        for ranks in (2, 16)
    ]
    device = load_device("h100-sxm").model_copy(update={"measured": Measured(source="here", collectives=timed)})
    assert seconds(device, "all_reduce", 2, 1, 10**9, calls=2) == pytest.approx(2 * (2e-3 + 1))
    assert seconds(device, "all_reduce", 8, 1, 10**9) == pytest.approx(16e-3 + 1)  # nearest by ratio
    assert seconds(device, "all_reduce", 1, 1, 10**9) == 0
    assert seconds(device, "all_to_all_single", 2, 1) == seconds(load_device("h100-sxm"), "all_to_all_single", 2, 1)


def test_a_collective_timed_in_a_job_of_as_many_ranks_is_believed_first() -> None:
    timed = [
        TimedCollective(
            operation="all_reduce", ranks=2, call_seconds=job * 1.0, bytes_a_second=1e9, job_ranks=job,
            residual=0.1,
        )
        for job in (2, 16)
    ]  # fmt: skip
    device = load_device("h100-sxm").model_copy(update={"measured": Measured(source="here", collectives=timed)})
    call = exchange("all_reduce", 2, 1, 0)
    for job, expected in ((2, 2.0), (4, 2.0), (8, 16.0), (16, 16.0)):
        assert exchange_seconds(call, device, np.array([job]))[0] == pytest.approx(expected)
    assert exchange_seconds(call, device)[0] == pytest.approx(2.0)


def test_a_collective_timed_in_a_group_of_as_many_ranks_is_believed_before_one_of_the_job() -> None:
    timed = [
        TimedCollective(
            operation="all_reduce", ranks=ranks, call_seconds=ranks * 1.0, bytes_a_second=1e9, job_ranks=job,
            residual=0.1,
        )
        for ranks, job in ((2, 16), (4, 4))
    ]  # fmt: skip
    device = load_device("h100-sxm").model_copy(update={"measured": Measured(source="here", collectives=timed)})
    # a group of four as in the second, in a job of 16 as was the first
    assert exchange_seconds(exchange("all_reduce", 4, 1, 0), device, np.array([16]))[0] == pytest.approx(4.0)


def test_an_exchange_is_timed_under_one_name_and_where_ranks_share_cores_only_its_bytes_count() -> None:
    timed = [
        TimedCollective(
            operation="all_gather_into_tensor", ranks=4, call_seconds=1.0, bytes_a_second=1e9, job_ranks=4, residual=0.1
        )
    ]
    device = load_device("h100-sxm").model_copy(update={"measured": Measured(source="here", collectives=timed)})
    shared = device.model_copy(update={"cores": 2, "node_size": 2})
    job = np.array([4])
    for operation in ("all_gather", "all_gather_into_tensor", "_all_gather_base"):
        call = exchange(operation, 4, 1, 10**9)
        assert exchange_seconds(call, device, job)[0] == pytest.approx(2.0)
        assert exchange_seconds(call, shared, job)[0] == pytest.approx(1.0)


def test_ranks_that_share_cores_are_in_one_machine() -> None:
    links = load_device("h100-sxm").links.model_copy(update={"nic_bytes_a_second": None})
    cpu = load_device("h100-sxm").model_copy(update={"cores": 2, "node_size": 2, "links": links})
    assert seconds(cpu, "all_reduce", 16, 1) > 0
    with pytest.raises(ValueError, match="states no nic_bytes_a_second"):
        seconds(cpu.model_copy(update={"cores": None}), "all_reduce", 16, 1)

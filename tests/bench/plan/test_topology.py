"""How many members of a group share a node, by all groups of the job one after the other."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.collectives import exchange_seconds
from bench.plan.device import load_device
from bench.plan.grok1_work import work_of
from bench.plan.groups import Group, groups_of
from bench.plan.layouts import ORDERS, Layouts, layouts_of
from bench.plan.predict import predict
from bench.plan.topology import split_of
from bench.plan.work import Exchange
from grok1.config.load import load_recipe

POWERS = [1, 2, 4, 8, 16, 32, 64]
SIZES = st.integers(1, 6)
DENSE = {
    "tensor": "t", "context": "c", "tensor x context": "tc", "data": "d", "data x context": "dc", "pipeline": "p",
    "embedding": "p", "world": "tcdp",
}  # fmt: skip
OF_EXPERTS = {"expert": "c", "expert-tensor": "t", "expert-tensor x expert": "tc", "expert-data": "d"}


def a_group(*sizes: int, has_ends: bool = False) -> Group:
    stride, run, between, runs, blocks = (np.array([size]) for size in sizes)
    return Group(stride, run, between, runs, blocks, has_ends)


def split(ranks: np.ndarray[Any, Any], spacing: Any, node_size: int) -> list[tuple[int, int, int]]:
    """(fewest, nodes, most) of each row."""
    found = split_of(ranks, spacing, node_size)
    return list(zip(found.fewest.tolist(), found.nodes.tolist(), found.most.tolist(), strict=True))


def counted(groups: list[list[int]], node_size: int) -> tuple[int, int, int]:
    """The same of one job, group by group."""
    held = [Counter(rank // node_size for rank in ranks).values() for ranks in groups]
    nodes = max(map(len, held))
    return min(map(min, held)), nodes, max(max(each) for each in held if len(each) == nodes)


def grouped(digits: list[tuple[str, int]], varied: str, only_ends: bool = False) -> list[list[int]]:
    """Ranks of the job by group: a digit a rank for each axis, the innermost first; a group varies some of them."""
    found: dict[tuple[int, ...], list[int]] = {}
    outermost_first = [range(size) for _, size in reversed(digits)]
    for rank, at in enumerate(itertools.product(*outermost_first)):
        of = dict(zip([name for name, _ in reversed(digits)], at, strict=True))
        if not only_ends or of["p"] in (0, dict(digits)["p"] - 1):
            found.setdefault(tuple(of[name] for name, _ in digits if name not in varied), []).append(rank)
    return list(found.values())


@given(st.tuples(SIZES, SIZES, SIZES, SIZES, SIZES), st.booleans(), st.integers(1, 100))
def test_the_worst_split_is_that_of_all_groups_of_the_job(
    sizes: tuple[int, int, int, int, int], has_ends: bool, node_size: int
) -> None:
    if has_ends:  # of one run
        sizes = (*sizes[:2], 1, 1, sizes[2] * sizes[3] * sizes[4])
    group = a_group(*sizes, has_ends=has_ends)
    groups = grouped(list(zip("spbrn", sizes, strict=True)), "pr", only_ends=has_ends)
    assert {len(each) for each in groups} == {int(group.ranks[0])}
    assert split(group.ranks, group, node_size) == [counted(groups, node_size)]


@settings(max_examples=200)
@given(st.tuples(SIZES, SIZES, SIZES, SIZES), st.sampled_from(ORDERS), st.data(), st.sampled_from([1, 4, 6, 8, 16, 72]))
def test_every_kind_of_group_of_a_layout_is_placed_as_megatron_numbers_ranks(
    sizes: tuple[int, int, int, int], order: str, data: st.DataObject, node_size: int
) -> None:
    tensor, context, replicas, stages = sizes
    world = tensor * context * replicas * stages
    parts = data.draw(st.sampled_from([each for each in range(1, world + 1) if world // stages % each == 0]))
    expert = data.draw(st.sampled_from([each for each in range(1, parts + 1) if parts % each == 0]))
    of = layouts_with(
        world_size=world, tensor=tensor, context=context, pipeline=stages, expert=expert,
        expert_tensor=parts // expert, order=ORDERS.index(order),
    )  # fmt: skip
    outer = "pd" if order.endswith("pp-dp") else "dp"
    dense = dict(zip("tcdp", sizes, strict=True))
    of_experts = {"t": parts // expert, "c": expert, "d": world // (parts * stages), "p": stages}
    for axes, kinds in ((dense, DENSE), (of_experts, OF_EXPERTS)):
        digits = [(name, axes[name]) for name in "tc" + outer]
        for kind, varied in kinds.items():
            group, groups = groups_of(of)[kind], grouped(digits, varied, only_ends=kind == "embedding")
            assert {len(each) for each in groups} == {int(group.ranks[0])}, kind
            assert split(group.ranks, group, node_size) == [counted(groups, node_size)], kind


def layouts_with(recipe: str = "grok1-nano", **columns: int) -> Layouts:
    updates: dict[str, Any] = {name: np.array([n]) for name, n in columns.items()}
    return replace(layouts_of(load_recipe(recipe)), **updates)


def test_where_powers_of_two_nest_in_nodes_the_stride_says_it() -> None:
    stride, run, blocks = (np.array(each) for each in zip(*itertools.product(POWERS, repeat=3), strict=True))
    group = Group(stride, run, np.ones_like(run), np.ones_like(run), blocks)
    for node_size in POWERS:
        by_stride = np.clip(node_size // stride, 1, run)
        for spacing in (group, stride):
            found = split_of(run, spacing, node_size)
            assert (found.fewest == by_stride).all()
            assert (found.most == by_stride).all()
            assert (found.nodes == run // by_stride).all()


def test_groups_that_straddle_nodes_are_split_where_the_worst_is() -> None:
    # 64 of 256 ranks on nodes of 72: (64), (8, 56), (16, 48), (24, 40); eight that are 8 apart: (1, 7) and more even
    assert split(np.array([64]), a_group(1, 64, 1, 1, 4), 72) == [(8, 2, 56)]
    assert split(np.array([8]), a_group(8, 8, 1, 1, 4), 72) == [(1, 2, 7)]
    # three replicas of 24 ranks on nodes of 8: ranks 6, 7 and 8 are (2, 1)
    assert split(np.array([3]), a_group(1, 3, 1, 1, 8), 8) == [(1, 2, 2)]


def test_a_call_waits_for_the_nodes_over_which_a_straddling_group_lies() -> None:
    """Sixty-four ranks as (8, 56): one node further, and not seven as if each held eight."""
    device = load_device("gb200").model_copy(update={"node_size": 72})
    one = np.ones(1, np.int64)
    call = Exchange(
        "forward", "expert", "all_to_all_single", "bfloat16", "micro_batch", one, 0 * one, 64 * one,
        a_group(1, 64, 1, 1, 4),
    )  # fmt: skip
    links = device.links
    waits = links.call_seconds.value + 55 * links.rank_seconds.value + links.nic_rank_seconds.value
    assert exchange_seconds(call, device).tolist() == [pytest.approx(waits)]


def test_a_step_takes_longer_where_a_group_straddles_nodes() -> None:
    splits = {"tensor": 8, "context": 1, "pipeline": 1, "virtual_pipeline": 1, "expert": 8, "expert_tensor": 8}
    work = work_of(layouts_with("grok1-314b", world_size=256, micro_batch=1, **splits))
    device = load_device("gb200")
    nested = device.model_copy(update={"node_size": 64})
    assert predict(work, device).terms["expert"][0] > 2 * predict(work, nested).terms["expert"][0]

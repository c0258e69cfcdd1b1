"""The work of published jobs: conservation laws that hold for any sizes and any layout."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.architectures import Architecture
from bench.plan.device import load_device
from bench.plan.layouts import Ints
from bench.plan.predict import predict
from bench.plan.published import PublishedRow, read_published
from bench.plan.published_places import published_places, rank_parameters, stage_layers
from bench.plan.published_work import model_flops, published_work
from bench.plan.schedule import passes
from bench.plan.work import Work

POWERS = st.sampled_from([1, 2, 4])


@st.composite
def jobs(draw: st.DrawFn) -> PublishedRow:
    """A job that divides, of at most three stages, so that its places are all its stages."""
    tensor, context, data, expert = draw(POWERS), draw(POWERS), draw(POWERS), draw(POWERS)
    pipeline, chunks, head = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([8, 16]))
    experts = draw(st.sampled_from([0, 4, 8]))
    sizes = Architecture(
        hidden_size=64 * draw(st.integers(1, 4)),
        ffn_hidden_size=64 * draw(st.integers(1, 4)),
        num_attention_heads=8,
        num_query_groups=draw(st.sampled_from([4, 8])),
        head_dim=head,
        vocab_size=128 * draw(st.integers(1, 4)),
        is_gated=draw(st.booleans()),
        num_experts=experts,
        experts_per_token=min(experts, draw(st.integers(1, 4))),
        shared_hidden_size=draw(st.sampled_from([0, 64])) if experts else 0,
        expert_hidden_size=draw(st.sampled_from([0, 128])) if experts else 0,
        dense_layers=draw(st.integers(0, 3)) if experts else 0,
        dense_between=draw(st.integers(0, 2)) if experts else 0,
        **(draw(latent_sizes()) if head == 16 else {}),
    )
    predicting = draw(st.integers(0, 1))
    return PublishedRow(
        line=2, source="a program", model="a model", chip="a chip",
        world_size=tensor * context * data * pipeline * (expert if experts else 1),
        tensor=tensor, pipeline=pipeline, virtual_pipeline=chunks, context=context,
        expert=expert if experts else 1, expert_tensor=tensor, sequence_length=512,
        global_batch=data * (expert if experts else 1) * draw(st.integers(1, 3)), micro_batch=1,
        layers=pipeline * chunks * draw(st.integers(1, 3)), precision="bf16", architecture=sizes, metric="s/step",
        value=1.0, flags={"mtp-num-layers": "1"} if predicting else {}, evidence="",
    )  # fmt: skip


@st.composite
def latent_sizes(draw: st.DrawFn) -> dict[str, int]:
    """Of latent attention, or none of it."""
    if not draw(st.booleans()):
        return {}
    return {"query_rank": draw(st.sampled_from([0, 32])), "latent_rank": 32, "rope_dim": 4, "value_dim": 8}


def flops(work: Work, phase: str) -> float:
    """Of the step over all ranks."""
    of_micro_batch = sum(
        2.0 * each.rows * each.columns * each.depth * each.calls for each in work.products if each.phase == phase
    ) + sum(each.flops for each in work.attention if each.phase == phase)
    return float((of_micro_batch * work.micro_batches * work.world_size / work.pipeline).sum())


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_the_forward_passes_of_all_ranks_are_a_third_of_the_model_s_flops(row: PublishedRow) -> None:
    assert flops(published_work([row]), "forward") == pytest.approx(model_flops(row) / 3, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(jobs())
def test_backward_products_are_twice_the_forward_s_and_attention_two_and_a_half(row: PublishedRow) -> None:
    work = published_work([row])
    attention = {each.phase: float(each.flops.sum()) for each in work.attention}
    products = replace(work, attention=())
    assert flops(products, "backward") == 2 * flops(products, "forward")
    assert attention["backward"] == 2.5 * attention["forward"]
    assert flops(work, "recompute") == 0


@settings(max_examples=100, deadline=None)
@given(jobs())
def test_full_recompute_runs_all_layers_again_and_not_the_head(row: PublishedRow) -> None:
    again = replace(row, flags={**row.flags, "recompute-granularity": "full", "recompute-method": "uniform"})
    logits = (1 + row.predicting_layers) * row.architecture.hidden_size * row.architecture.vocab_size
    head = 2.0 * row.sequence_length * row.global_batch * logits
    work = published_work([again])
    assert flops(work, "recompute") == pytest.approx(flops(work, "forward") - head, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(jobs())
def test_ranks_hold_each_parameter_once_a_replica(row: PublishedRow) -> None:
    row = replace(row, architecture=row.architecture.model_copy(update={"latent_rank": 0, "query_rank": 0}))
    dense, experts = rank_parameters(published_places([row]))
    sizes, later = row.architecture, row.predicting_layers
    matrices, hidden = 2 + sizes.is_gated, sizes.hidden_size
    mixtures = sum(sizes.has_experts(layer) for layer in range(row.layers)) + later * sizes.has_experts(row.layers - 1)
    ends = 3 if later and row.pipeline > 1 else 2  # what predicts has an embedding beside it
    split = (row.layers + later) * sizes.attention_parameters + ends * hidden * sizes.vocab_size
    split += matrices * hidden * sizes.ffn_hidden_size * (row.layers + later - mixtures)
    split += matrices * hidden * sizes.shared_hidden_size * mixtures + later * 2 * hidden * hidden
    assert dense.sum() * row.tensor == split + mixtures * hidden * sizes.num_experts * row.tensor
    each = mixtures * matrices * hidden * sizes.expert_width * sizes.num_experts
    assert experts.sum() * row.expert * row.expert_tensor == each


def test_one_rank_exchanges_nothing() -> None:
    row = next(row for row in read_published().rows if row.is_time)
    alone = replace(row, world_size=1, tensor=1, pipeline=1, context=1, expert=1, expert_tensor=1, virtual_pipeline=1)
    work = published_work([alone])
    assert all(not each.calls.any() and not each.bytes.any() for each in work.exchanges)


@settings(max_examples=100, deadline=None)
@given(jobs(), jobs())
def test_jobs_together_are_jobs_apart(first: PublishedRow, second: PublishedRow) -> None:
    both, apart = published_work([first, second]), [published_work([first]), published_work([second])]
    assert both.layout.tolist() == [0] * len(apart[0].layout) + [1] * len(apart[1].layout)
    for group in ("products", "attention", "traffic", "exchanges"):
        for together, one, other in zip(getattr(both, group), *(getattr(each, group) for each in apart), strict=True):
            assert together.calls.tolist() == one.calls.tolist() + other.calls.tolist()
            assert (together.phase, one.phase) == (other.phase, other.phase)


@pytest.mark.parametrize(
    ("layers", "pipeline", "chunks", "expected"),
    [
        (126, 8, 8, [15, 16, 16, 16, 16, 16, 16, 15]),
        (30, 4, 8, [7, 8, 8, 7]),
        (80, 4, 5, [20] * 4),
        (8, 3, 1, [3, 3, 2]),
    ],
)
def test_embedding_and_head_may_stand_for_a_layer_each(
    layers: int, pipeline: int, chunks: int, expected: list[int]
) -> None:
    row = next(row for row in read_published().rows if row.is_time)
    stages = stage_layers(replace(row, layers=layers, pipeline=pipeline, virtual_pipeline=chunks))
    assert [len(of) for of in stages] == expected
    assert sorted(itertools.chain(*stages)) == list(range(layers))


def test_layers_that_do_not_run_are_missing_where_they_stand() -> None:
    row = next(row for row in read_published().rows if row.is_time)
    idle = replace(row, layers=5, pipeline=4, virtual_pipeline=1, flags={"noop-layers": "0,6,7"})
    assert stage_layers(idle) == [[1], [2, 3], [4, 5], []]


def test_a_source_may_state_the_layers_of_each_stage() -> None:
    row = next(row for row in read_published().rows if row.is_time)
    stated = replace(row, layers=7, pipeline=3, virtual_pipeline=1, flags={"num-layer-list": "1,4,2"})
    assert stage_layers(stated) == [[0], [1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("one", "other", "layers"),
    [
        ({"num-layer-list": "2,1,9,2,2"}, {"num-layer-list": "2,9,1,2,2"}, 16),
        ({"noop-layers": "4,5,6"}, {"noop-layers": "7,8,9"}, 12),
    ],
)
def test_which_stage_of_the_middle_has_most_layers_does_not_matter(
    one: dict[str, str], other: dict[str, str], layers: int
) -> None:
    row = next(row for row in read_published().rows if row.is_time)
    row = replace(row, layers=layers, pipeline=5, virtual_pipeline=1, world_size=5 * row.tensor * row.context)
    work = published_work([replace(row, flags=flags) for flags in (one, other)])
    first, second = predict(work, load_device("h100-sxm")).step_seconds
    assert first == pytest.approx(second, rel=1e-9)


def test_padded_experts_work_and_exchange_as_much_more() -> None:
    row = next(row for row in read_published().rows if row.is_time and row.architecture.num_experts)
    flags = {"moe-pad-expert-input-to-capacity": "", "moe-expert-capacity-factor": "1.5"}
    padded = published_work([replace(row, flags={**row.flags, **flags})])
    for before, after in zip(published_work([row]).products, padded.products, strict=True):
        more = 1.5 if before.component == "experts" else 1.0
        volume = [2.0 * each.rows * each.columns * each.depth * each.calls for each in (before, after)]
        assert volume[1] == pytest.approx(more * volume[0])
    sent = [
        sum(each.bytes.sum() for each in work.exchanges if each.group == "expert")
        for work in (published_work([row]), padded)
    ]
    assert sent[1] == pytest.approx(1.5 * sent[0])


def test_chunks_hide_what_stages_send_but_while_the_pipeline_fills() -> None:
    row = next(row for row in read_published().rows if row.is_time)
    jobs = [
        replace(
            row,
            pipeline=4,
            world_size=4,
            tensor=1,
            expert_tensor=1,
            context=1,
            virtual_pipeline=chunks,
            layers=32,
            global_batch=size,
        )
        for chunks, size in ((1, 64), (8, 64), (8, 4), (2, 1 << 20))
    ]
    jobs = [replace(job, micro_batch=1) for job in jobs]
    work = published_work(jobs)
    shown = np.broadcast_to(work.shown_transfers, work.layout.shape)
    assert [float(shown[work.layout == job][0]) for job in range(4)] == [
        1.0,
        (3 + 7 * 4) / (64 * 8),
        31 / 32,
        pytest.approx(0, abs=1e-5),
    ]
    seconds = predict(work, load_device("h100-sxm")).terms["pipeline"]
    whole = predict(replace(work, shown_transfers=1.0), load_device("h100-sxm")).terms["pipeline"]
    assert (seconds / whole).tolist() == pytest.approx([1.0, 31 / 512, 31 / 32, 7 / (2 << 20)], rel=1e-9)


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), [(4, 8, 64), (8, 2, 64), (2, 3, 6), (4, 8, 4)])
def test_what_shows_of_transfers_is_what_a_played_schedule_waits_for(
    stages: int, chunks: int, micro_batches: int
) -> None:
    row = next(row for row in read_published().rows if row.is_time)
    job = replace(row, pipeline=stages, world_size=stages, tensor=1, expert_tensor=1, context=1, micro_batch=1)
    job = replace(job, virtual_pipeline=chunks, layers=stages * chunks, global_batch=micro_batches)
    share = float(np.max(published_work([job]).shown_transfers))
    transfer = 0.01  # far below a pass, which hides it once the pipeline is full
    waited = _played(stages, chunks, micro_batches, transfer) - _played(stages, chunks, micro_batches, 0.0)
    assert waited == pytest.approx(share * 2 * chunks * micro_batches * transfer)


def _played(stages: int, chunks: int, micro_batches: int, transfer: float) -> float:
    """Seconds of megatron's order of passes, where a pass waits for its input alone and a sender never."""
    todo = [list(passes(stage, stages, chunks, micro_batches)) for stage in range(stages)]
    done: dict[tuple[bool, int, int], float] = {}  # by forward or backward, micro-batch and chunk of the whole model
    clock, last = [0.0] * stages, stages * chunks - 1
    while any(todo):
        for stage, of_stage in enumerate(todo):
            while of_stage:
                now = of_stage[0]
                place = now.chunk * stages + stage
                turns_back = not now.is_forward and place == last
                before = place if turns_back else place - 1 if now.is_forward else place + 1
                needed = (now.is_forward or turns_back, now.micro_batch, before)
                if before >= 0 and needed not in done:
                    break
                there = 0.0 if before < 0 else done[needed] + transfer * (before != place)
                clock[stage] = max(clock[stage], there) + (1.0 if now.is_forward else 2.0)
                done[now.is_forward, now.micro_batch, place] = clock[stage]
                del of_stage[0]
    return max(clock)


def test_a_phase_of_a_layer_alone_is_that_phase_only() -> None:
    layers = [row for row in read_published().rows if row.is_layer_alone]
    forward, backward = layers[0], layers[1]
    assert flops(published_work([forward]), "backward") == 0
    assert flops(published_work([backward]), "forward") == 0
    for row in (forward, backward):
        work = published_work([row])
        assert flops(work, "forward") + flops(work, "backward") == model_flops(row)
        assert not any(each.flops.any() for each in work.attention)
        groups = {each.group for each in work.exchanges if each.calls.any()}
        assert groups == {"expert"}


def test_a_sum_over_replicas_takes_the_place_of_sharded_states() -> None:
    rows = {flag: row for row in read_published().rows for flag in ("use-distributed-optimizer",) if row.has(flag)}
    row = replace(rows["use-distributed-optimizer"], pipeline=1, flags={})
    calls = {
        each.operation: int(np.sum(each.calls)) for each in published_work([row]).exchanges if each.group == "data"
    }
    assert calls == {"reduce_scatter_tensor": 0, "all_reduce": 1, "all_gather_into_tensor": 0}


def test_a_gathering_dispatcher_sends_every_token_to_every_rank_of_its_experts() -> None:
    row = next(row for row in read_published().rows if row.is_time and row.architecture.num_experts)
    gathering = replace(row, flags={**row.flags, "moe-token-dispatcher-type": "allgather"})
    work = published_work([gathering])
    token_bytes = row.sequence_length * row.architecture.hidden_size * 2
    found = {(each.group, each.operation): each for each in work.exchanges if each.phase == "forward"}
    gathered = found["expert-tensor x expert", "all_gather_into_tensor"]
    assert gathered.bytes.tolist() == [row.layers * token_bytes * row.expert]
    assert gathered.ranks.tolist() == [row.expert * row.expert_tensor]
    assert not found["expert", "all_to_all_single"].calls.any()
    assert found["expert", "all_to_all_single"].group not in {each.group for each in work.exchanges if each.calls.any()}


@pytest.mark.parametrize(
    ("flags", "ring"),
    [
        ({}, 1),
        ({"context-parallel-algo": "ulysses_cp_algo"}, 1),
        ({"context-parallel-algo": "megatron_cp_algo"}, 8),
        ({"context-parallel-algo": "hybrid_cp_algo", "ulysses-degree-in-cp": "4"}, 2),
        ({"context-parallel-algo": "hybrid_cp_algo"}, 8),
    ],
)
def test_a_ring_calls_attention_and_merges_in_each_of_its_steps(flags: dict[str, str], ring: int) -> None:
    at_once = replace(_shipped_row(), context=8, world_size=8, tensor=1, pipeline=1, virtual_pipeline=1)
    row = replace(at_once, flags={**at_once.flags, **flags})
    assert row.ring == ring
    whole, work = published_work([at_once]), published_work([row])
    for before, after in zip(whole.attention, work.attention, strict=True):
        assert (after.flops == before.flops).all()
        assert (after.calls == ring * before.calls).all()
    more = {phase: (_traffic(work, phase) - _traffic(whole, phase))[0] for phase in ("forward", "backward")}
    assert more == {"forward": int(21.5 * (ring - 1)) * row.layers, "backward": 7 * (ring - 1) * row.layers}


@pytest.mark.parametrize(
    ("mask", "fused", "launches"),
    [("causal", False, 21), ("causal", True, 4), ("general", False, 20), ("general", True, 3)],
)
def test_what_a_ring_merges_depends_on_its_mask_and_its_kernel(mask: str, fused: bool, launches: int) -> None:
    flags = {"context-parallel-algo": "megatron_cp_algo", "attention-mask-type": mask}
    flags |= {"use-fused-ring-attention-update": ""} if fused else {}
    once = replace(_shipped_row(), context=2, world_size=2, tensor=1, pipeline=1, virtual_pipeline=1, layers=1)
    row = replace(once, flags={**once.flags, **flags})
    calls, moved_bytes = _traffic(published_work([row]), "forward") - _traffic(published_work([once]), "forward")
    assert calls == launches
    assert moved_bytes > 0


@pytest.mark.parametrize(("per_stage", "layers"), [(False, 4), (True, 1)])
def test_a_job_may_count_its_recomputed_layers_in_the_stage(per_stage: bool, layers: int) -> None:
    flags = {"recompute-granularity": "full", "recompute-method": "block", "recompute-num-layers": "1"}
    flags |= {"enable-recompute-layers-per-pp-rank": ""} if per_stage else {}
    row = replace(_shipped_row(), virtual_pipeline=4, pipeline=1, layers=8, flags=flags)
    assert published_places([row]).recomputed.tolist() == [layers]
    assert published_places([replace(row, flags={**flags, "recompute-num-layers": "9"})]).recomputed.tolist() == [8]


def test_a_general_mask_leaves_out_no_score() -> None:
    row = _shipped_row()
    general = replace(row, flags={**row.flags, "attention-mask-type": "general"})
    assert flops(published_work([general]), "forward") > flops(published_work([row]), "forward")
    for before, after in zip(published_work([row]).attention, published_work([general]).attention, strict=True):
        assert (after.flops == 2 * before.flops).all()


def _traffic(work: Work, phase: str) -> Ints:
    """Launches and bytes of the first place that multiply nothing."""
    return np.sum([(each.calls[0], each.bytes[0]) for each in work.traffic if each.phase == phase], axis=0)


def _shipped_row() -> PublishedRow:
    """A dense job of one rank's layout, whose attention is fused."""
    rows = read_published().rows
    return next(row for row in rows if row.has("use-flash-attn") and not row.architecture.num_experts and row.is_time)

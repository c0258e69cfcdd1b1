"""The played schedule: its order is megatron's, its bubble the formula's, and what it keeps the recipe's own count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grok1.megatron.door  # noqa: F401  # makes the device ready before megatron
from bench.plan.schedule import passes, play, warm_up
from grok1.config.load import load_recipe
from grok1.config.stages import chunks_in_flight
from tests.lines import ONLY_0_12

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)).map(
    lambda each: (each[0], each[1] if each[0] > 1 else 1, each[0] * each[2])
)  # stages, chunks, micro-batches


def even(value: float, stages: int, chunks: int) -> np.ndarray:
    return np.full((stages, chunks), value / chunks)


@settings(deadline=None)
@given(SHAPES, st.floats(0.1, 5), st.floats(0.1, 9))
def test_equal_stages_take_the_time_of_the_formula(
    shape: tuple[int, int, int], forward: float, backward: float
) -> None:
    stages, chunks, micro_batches = shape
    found = play(even(forward, stages, chunks), even(backward, stages, chunks), 0.0, micro_batches)
    expected = (micro_batches + (stages - 1) / chunks) * (forward + backward)
    assert found.seconds == pytest.approx(expected)
    np.testing.assert_allclose(found.bubble_seconds, (stages - 1) / chunks * (forward + backward), atol=1e-9)


@settings(deadline=None)
@given(SHAPES, st.data())
def test_unequal_stages_lie_between_the_slowest_alone_and_all_in_a_row(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    stages, chunks, micro_batches = shape
    times = st.lists(st.floats(0, 3), min_size=stages * chunks, max_size=stages * chunks)
    forward, backward = (np.array(data.draw(times)).reshape(stages, chunks) for _ in range(2))
    transfer = data.draw(st.floats(0, 1))
    found = play(forward, backward, transfer, micro_batches)
    work = forward.sum(axis=1) + backward.sum(axis=1)
    passing = transfer * 2 * (stages * chunks - 1)
    assert found.seconds >= micro_batches * work.max() - 1e-9
    assert found.seconds >= work.sum() + passing - 1e-9  # a micro-batch passes all of it
    assert found.seconds <= micro_batches * (work.sum() + passing) + 1e-9
    slower = play(forward * 2, backward * 2, transfer * 2, micro_batches)
    assert slower.seconds == pytest.approx(2 * found.seconds)


def test_the_last_stage_s_head_delays_all_others() -> None:
    forward, backward = even(1, 4, 1), even(2, 4, 1)
    forward[3], backward[3] = 2, 4
    # the last stage works without a pause once the first micro-batch is there, and the last one returns
    assert play(forward, backward, 0.0, 8).seconds == pytest.approx(3 * 1 + 8 * 6 + 3 * 2)


def test_a_transfer_is_waited_for() -> None:
    forward, backward = even(1, 2, 1), even(2, 2, 1)
    assert play(forward, backward, 0.5, 1).seconds == pytest.approx(2 * 3 + 2 * 0.5)


def test_the_next_chunk_of_the_first_stage_waits_for_the_last_stage() -> None:
    """By hand, all passes and transfers of a second: stage 0's second chunks begin at 4 and 5, not at 2 and 3; the last
    chunk's backwards end at 8 and 10, stage 0's at 10 and 12, the first chunk's at 12 and 14, and at 14 and 16.
    """
    assert play(np.ones((2, 2)), np.ones((2, 2)), 1.0, 2).seconds == pytest.approx(16)


def test_an_interleaved_forward_waits_for_the_gradient_that_comes_with_its_input() -> None:
    """Without that, stage 0 would run its fifth forward while it waits, and all would end one second before."""
    backward = np.array([[2.0, 2.0], [1.0, 1.0]])
    assert play(np.ones((2, 2)), backward, 0.0, 4).seconds == pytest.approx(25)


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_stage_keeps_as_many_chunks_as_the_recipe_says(stages: int, chunks: int, rounds: int) -> None:
    if stages == 1 and chunks > 1:
        pytest.skip("one stage has none to interleave with")
    parallel = load_recipe("grok1-tiny").parallel.model_copy(update={"pipeline": stages, "virtual_pipeline": chunks})
    found = play(even(1, stages, chunks), even(2, stages, chunks), 0.0, rounds * stages)
    expected = [chunks_in_flight(parallel, stage, rounds * stages) for stage in range(stages)]
    assert found.most_in_flight.tolist() == expected


@ONLY_0_12
@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (2, 1, 1), (4, 1, 9), (3, 1, 2), (2, 2, 4), (2, 3, 2), (4, 2, 12), (3, 4, 6)]
)
def test_the_order_of_passes_is_megatrons(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own functions, which ask it for this rank's place in the pipeline."""
    from megatron.core.pipeline_parallel import schedules

    stages, chunks, micro_batches = shape
    state = schedules.parallel_state
    monkeypatch.setattr(state, "get_pipeline_model_parallel_world_size", lambda: stages)
    monkeypatch.setattr(state, "get_virtual_pipeline_model_parallel_world_size", lambda: chunks if chunks > 1 else None)
    for stage in range(stages):
        monkeypatch.setattr(state, "get_pipeline_model_parallel_rank", lambda place=stage: place)
        group = stages if chunks > 1 else micro_batches
        _, _, ahead, _ = schedules.get_pp_rank_microbatches(micro_batches, chunks, group)
        if stages > 1:  # the schedule without a pipeline asks for one ahead and takes none
            assert warm_up(stage, stages, chunks, micro_batches) == ahead
        ahead = warm_up(stage, stages, chunks, micro_batches)
        table = schedules.get_schedule_table(micro_batches, chunks, group)
        order = schedules.convert_schedule_table_to_order(ahead, chunks, table)
        found = passes(stage, stages, chunks, micro_batches)
        assert [each.chunk + 1 if each.is_forward else -(each.chunk + 1) for each in found] == order
        assert [(each.micro_batch, each.chunk) for each in found if each.is_forward] == table
        backwards = [(each.micro_batch, chunks - 1 - each.chunk) for each in found if not each.is_forward]
        assert backwards == table

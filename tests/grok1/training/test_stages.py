"""Interleaved and uneven stages in training: one rank's numbers, resumed bit by bit, in megatron's order of passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tests.grok1.weights.weights_entries as entries
from grok1.config.load import ONE_RANK
from grok1.distributed.launch import launch
from grok1.training.job import Job
from grok1.training.result import RunResult
from grok1.training.timers import PHASES
from grok1.weights.exporting import export_weights
from reports.pictures.schedule import Order
from tests.grok1.conftest import MakeJob, Train, column
from tests.limits import HANG_SECONDS

SAME = 1e-5  # relative; fp32 sums in another order
FOUR_LAYERS = (*ONE_RANK, "model.num_layers=4", "training.global_batch=4")
INTERLEAVED = (*FOUR_LAYERS, "parallel.world_size=2", "parallel.pipeline=2", "parallel.virtual_pipeline=2")
UNEVEN = (*FOUR_LAYERS, "parallel.world_size=2", "parallel.pipeline=2", "parallel.first_stage_layers=1")


@pytest.fixture(scope="module")
def interleaved(train: Train) -> RunResult:
    result: RunResult = train(10, *INTERLEAVED)
    return result


@pytest.mark.slow
def test_two_chunks_of_two_stages_give_the_numbers_of_one_rank(train: Train, interleaved: RunResult) -> None:
    alone = train(10, *FOUR_LAYERS)
    for name in ("loss", "grad_norm", "aux_loss"):
        assert column(interleaved, name) == pytest.approx(column(alone, name), rel=SAME)
    assert sum(map(sum, interleaved.expert_load)) == sum(map(sum, alone.expert_load))
    assert [sum(layer) for layer in interleaved.expert_load] == [sum(layer) for layer in alone.expert_load]


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(
    train: Train, make_job: MakeJob, interleaved: RunResult, tmp_path: Path
) -> None:
    """And its weights load in other layouts, and go out under the published names."""
    train(4, *INTERLEAVED, save=tmp_path / "saved")
    resumed = train(7, *INTERLEAVED, load=tmp_path / "saved")
    for name in ("step", "loss", "grad_norm", "learning_rate"):
        assert column(resumed, name) == column(interleaved, name)[4:7]
    layouts = (INTERLEAVED, FOUR_LAYERS, UNEVEN)
    first, *others = (_loaded(make_job(4, *layout, load=tmp_path / "saved")) for layout in layouts)
    assert not any(weight.isnan().any() for weight in first.values())
    for other in others:
        assert all(torch.equal(other[key], weight) for key, weight in first.items())
    export_weights(tmp_path / "saved", tmp_path / "published")
    assert list((tmp_path / "published").glob("*.safetensors"))


def _loaded(job: Job) -> dict[str, torch.Tensor]:
    entry = f"{entries.__name__}:loaded_weights"
    found = launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS)
    return {key: torch.from_numpy(weight) for key, weight in found.items()}


@pytest.mark.slow
def test_the_timeline_shows_the_chunks_in_turns(interleaved: RunResult) -> None:
    """Four micro-batches: two on the first chunk, two on the second, and so on; the first stage runs two more ahead."""
    assert interleaved.layout.virtual_pipeline == 2
    for rank in interleaved.ranks:
        passes = "".join(span.phase[0] for span in rank.timeline if span.phase in ("forward", "backward"))
        warm = 2 * (1 - rank.stage) + 2
        assert passes == "f" * warm + "fb" * (8 - warm) + "b" * warm
        parts = sum(sum(rank.phases_seconds[phase]) for phase in PHASES)
        assert parts == pytest.approx(sum(rank.step_seconds), rel=0.05)  # its sends and receives among them


@pytest.mark.parametrize(
    ("stages", "micro_batches", "chunks"), [(2, 4, 2), (2, 8, 4), (4, 8, 2), (4, 4, 3), (8, 32, 2)]
)
def test_the_bubble_by_hand_is_the_formula(stages: int, micro_batches: int, chunks: int) -> None:
    """Passes of one length for each chunk, forward, and two, backward, as soon as their input is there."""
    order = Order(stages, micro_batches, chunks)
    end = _last_end(order)
    work = micro_batches * chunks * 3
    assert end - work == (stages - 1) * 3
    assert (end - work) / work == pytest.approx((stages - 1) / (micro_batches * chunks))


def _last_end(order: Order) -> int:
    """When the last stage's or the first's last pass ends, in units of a chunk's forward."""
    forward, backward = order.passes("forward"), order.passes("backward")
    total = len(forward)
    programs = []
    for stage in range(order.stages):
        warm = min(2 * (order.stages - stage - 1) + (order.chunks - 1) * order.stages, total)
        program = [("f", *each) for each in forward[:warm]]
        for ahead, behind in zip(forward[warm:], backward, strict=False):
            program += [("f", *ahead), ("b", *behind)]
        programs.append(program + [("b", *each) for each in backward[total - warm :]])
    ends: dict[tuple[str, int, int, int], int] = {}
    clocks, places = [0] * order.stages, [0] * order.stages
    while any(place < len(program) for place, program in zip(places, programs, strict=True)):
        moved = False
        for stage, program in enumerate(programs):
            while places[stage] < len(program):
                kind, micro_batch, chunk = program[places[stage]]
                needed = _needed(kind, micro_batch, chunk, stage, order)
                if needed is not None and needed not in ends:
                    break
                start = max(clocks[stage], ends[needed] if needed is not None else 0)
                clocks[stage] = start + (1 if kind == "f" else 2)
                ends[kind, micro_batch, chunk, stage] = clocks[stage]
                places[stage] += 1
                moved = True
        assert moved, "the stages wait for each other"
    return max(clocks)


def _needed(kind: str, micro_batch: int, chunk: int, stage: int, order: Order) -> tuple[str, int, int, int] | None:
    """The pass whose output this one takes."""
    place = chunk * order.stages + stage
    if kind == "f":
        return None if place == 0 else ("f", micro_batch, (place - 1) // order.stages, (place - 1) % order.stages)
    last = order.chunks * order.stages - 1
    if place == last:
        return ("f", micro_batch, chunk, stage)
    return ("b", micro_batch, (place + 1) // order.stages, (place + 1) % order.stages)


def test_the_order_of_passes_is_megatrons() -> None:
    from megatron.core.pipeline_parallel.schedules import get_schedule_table

    import grok1.megatron.door  # noqa: F401  # makes the device ready before megatron

    for stages, micro_batches, chunks in ((2, 4, 2), (2, 6, 3), (4, 8, 2)):
        table = get_schedule_table(micro_batches, chunks, stages)
        order = Order(stages, micro_batches, chunks)
        assert order.passes("forward") == table
        assert order.passes("backward") == [(micro_batch, chunks - 1 - chunk) for micro_batch, chunk in table]

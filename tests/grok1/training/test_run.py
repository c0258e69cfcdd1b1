"""Training in real layouts: the same numbers everywhere, resumable, and honest about its own time."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.data.indexed import IndexedWriter
from grok1.data.samples import training_samples
from grok1.device.traffic import Communication
from grok1.distributed.launch import launch
from grok1.training.gathering import collective_samples
from grok1.training.result import CollectiveSamples, RunResult, StepMetrics
from grok1.training.step import StepResult
from grok1.training.timers import PHASES
from tests.grok1.conftest import TWO_RANKS, MakeJob, Train, column
from tests.limits import HANG_SECONDS

SAME = 1e-5  # relative; fp32 sums in another order


@pytest.mark.parametrize("name", ["loss", "grad_norm", "aux_loss"])
def test_sixteen_ranks_give_the_numbers_of_one(name: str, one_rank: RunResult, sixteen_ranks: RunResult) -> None:
    assert column(sixteen_ranks, name) == pytest.approx(column(one_rank, name)[:7], rel=SAME)


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize(
    "layout",
    [
        ("parallel.world_size=2", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=1")
        + ("parallel.expert_tensor=2",),
        ("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=2", "parallel.expert=1"),
        ("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=1", "parallel.expert=2"),
        ("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=1", "parallel.expert=1"),
        ("parallel.world_size=8", "parallel.tensor=4", "parallel.pipeline=1", "parallel.expert=8"),
        ("parallel.world_size=4", "parallel.tensor=2", "parallel.expert=2", "parallel.pipeline=1")
        + ("parallel.dispatcher=allgather", "kernels.dispatch=megatron"),
    ],
    ids=["tensor", "pipeline", "expert", "data", "expert 8 unsplit", "allgather"],
)
def test_each_axis_alone_gives_the_numbers_of_one(layout: tuple[str, ...], train: Train, one_rank: RunResult) -> None:
    result = train(4, "parallel.expert_tensor=1", *layout)
    for name in ("loss", "grad_norm"):
        assert column(result, name) == pytest.approx(column(one_rank, name)[:4], rel=SAME)


@pytest.mark.slow
def test_xais_model_also_gives_the_same_numbers_in_both_layouts(train: Train) -> None:
    choices = (
        "model.activation=geglu",
        "model.attention_logit_cap=30.0",
        "model.tie_embeddings=true",
        "model.router=softmax_then_topk",
        "model.aux_loss_coefficient=0.0",
    )
    alone, together = train(3, *choices, *ONE_RANK), train(3, *choices)
    for name in ("loss", "grad_norm"):
        assert column(together, name) == pytest.approx(column(alone, name), rel=SAME)
    assert column(alone, "aux_loss") == [0.0] * 3


def test_bfloat16_trains_near_the_float32_losses(train: Train, one_rank: RunResult) -> None:
    result = train(4, "training.dtype=bf16", *ONE_RANK)
    assert column(result, "loss") == pytest.approx(column(one_rank, "loss")[:4], rel=0.02)
    assert column(result, "loss") != column(one_rank, "loss")[:4]


def test_recomputing_activations_changes_nothing(train: Train, one_rank: RunResult) -> None:
    result = train(3, "training.recompute=full", *ONE_RANK)
    assert column(result, "loss") == column(one_rank, "loss")[:3]


def test_the_loss_starts_at_the_uniform_one_and_falls(one_rank: RunResult) -> None:
    losses = column(one_rank, "loss")
    assert losses[0] == pytest.approx(math.log(load_recipe("grok1-nano").model.vocab_size), rel=0.01)
    assert losses[-1] < losses[0] - 0.1


def test_the_learning_rate_warms_up_then_follows_a_cosine(one_rank: RunResult) -> None:
    training = load_recipe("grok1-nano").training
    peak, low, warm, decay = (
        training.learning_rate,
        training.min_learning_rate,
        training.warmup_steps,
        training.decay_steps,
    )
    expected = [
        peak * step / warm
        if step <= warm
        else low + (peak - low) * 0.5 * (1 + math.cos(math.pi * (step - warm) / (decay - warm)))
        for step in range(10)
    ]
    assert column(one_rank, "learning_rate") == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(
    train: Train, sixteen_ranks: RunResult, tmp_path: Path
) -> None:
    train(4, save=tmp_path)
    resumed = train(7, load=tmp_path)
    assert column(resumed, "step") == [4, 5, 6]
    for name in ("loss", "grad_norm", "learning_rate"):
        assert column(resumed, name) == column(sixteen_ranks, name)[4:7]


@pytest.mark.slow
def test_split_sequences_train_as_whole_ones_and_resume_bitwise(
    train: Train, one_rank: RunResult, tmp_path: Path
) -> None:
    layout = ("parallel.world_size=2", *ONE_RANK[1:], "parallel.context=2")
    whole = train(4, *layout)
    train(2, *layout, save=tmp_path)
    resumed = train(4, *layout, load=tmp_path)
    for name in ("loss", "aux_loss", "grad_norm"):
        assert column(resumed, name) == column(whole, name)[2:]
        assert column(whole, name) == pytest.approx(column(one_rank, name)[:4], rel=1e-5)
    recipe = load_recipe("grok1-nano")
    pairs = 4 * recipe.tokens_per_step * recipe.model.experts_per_token
    assert [sum(layer) for layer in whole.expert_load] == [pairs] * recipe.model.num_layers
    assert (whole.layout.context, whole.layout.data) == (2, 1)


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    "layout",
    [
        ("parallel.world_size=2", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=1")
        + ("parallel.expert_tensor=2",),
        ("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=2", "parallel.expert=1")
        + ("parallel.expert_tensor=1",),
        TWO_RANKS,
    ],
    ids=["tensor", "pipeline", "data"],
)
def test_an_id_beyond_the_vocabulary_ends_every_layout(
    layout: tuple[str, ...], make_job: MakeJob, tmp_path: Path
) -> None:
    """In a sample of the second step, which one of two replicas reads."""
    job = make_job(3, *layout, "training.global_batch=2", "data.split=1,0,0")
    prefix = write_corpus(tmp_path / "data", [[each] * 40 for each in range(60)])
    samples = training_samples(job.recipe, prefix, job.tokenizer_path)
    first, late = ({int(token) for index in step for token in samples[index]["tokens"]} for step in ((0, 1, 2), (3,)))
    bad = min(late - first)  # the index stays: the text has the same lengths
    write_corpus(prefix, [[600 if each == bad else each] * 40 for each in range(60)])
    steps: list[Any] = []
    complaint = rf"data\.bin holds token id 600 \(token \d+ of document {bad + 1}, sample 3\), the recipe's vocab_size"
    with pytest.raises(ValueError, match=complaint):
        launch(
            replace(job, data_prefix=prefix),
            job.recipe,
            "cpu",
            on_event=steps.append,
            entry="grok1.training.run:run_rank",
            timeout_seconds=HANG_SECONDS,
        )
    assert len(steps) <= 1


def write_corpus(prefix: Path, documents: list[list[int]]) -> Path:
    with IndexedWriter(prefix, 512) as writer:
        for ids in documents:
            writer.add_document(array("i", ids))
    return prefix


@pytest.mark.slow
def test_the_number_of_steps_changes_no_step_even_over_many_readings_of_the_corpus(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """32 samples a reading, and a schedule of three steps: also where the run is resumed beyond both."""
    prefix = write_corpus(tmp_path / "data", [list(range(each, each + 60)) for each in range(18)])

    def losses(steps: int, **settings: Any) -> list[float]:
        job = make_job(steps, *ONE_RANK, "training.decay_steps=3", "data.split=1,0,0", **settings)
        job = replace(job, data_prefix=prefix)
        entry = "grok1.training.run:run_rank"
        return column(launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS), "loss")

    whole = losses(22)
    assert losses(10, save=tmp_path / "saved") == whole[:10]
    assert losses(22, load=tmp_path / "saved") == whole[10:]


def test_the_measured_parts_cover_the_step(sixteen_ranks: RunResult) -> None:
    for rank in sixteen_ranks.ranks:
        parts = sum(sum(rank.phases_seconds[phase]) for phase in PHASES)
        assert parts == pytest.approx(sum(rank.step_seconds), rel=0.05)


def test_kinds_of_collectives_sum_to_the_communication(sixteen_ranks: RunResult) -> None:
    for rank in sixteen_ranks.ranks:
        kinds = rank.collectives.values()
        sums = [sum(kind.seconds[step] for kind in kinds) for step in range(len(rank.step_seconds))]
        assert rank.communication_seconds == pytest.approx(sums, rel=1e-9)
        assert min(rank.communication_seconds) > 0
        assert sum(rank.communication_calls) == sum(kind.calls for kind in kinds)
        assert sum(rank.communication_bytes) == sum(kind.bytes for kind in kinds)


def test_a_kind_of_collective_that_not_every_step_has_takes_no_time_in_the_others() -> None:
    both = {"tensor broadcast": Communication(0.5, 2, 8), "world all_reduce": Communication(0.25, 1, 4)}
    results = [_result(both), _result({}), _result({"world all_reduce": Communication(0.125, 3, 16)})]
    assert collective_samples(results) == {
        "tensor broadcast": CollectiveSamples([0.5, 0.0, 0.0], calls=2, bytes=8),
        "world all_reduce": CollectiveSamples([0.25, 0.0, 0.125], calls=4, bytes=20),
    }


def _result(collectives: dict[str, Communication]) -> StepResult:
    return StepResult(StepMetrics(0, 1.0, 0.0, 1.0, 0.1, skipped=False), 1.0, {}, collectives)


def test_the_timeline_is_the_last_step_in_order(sixteen_ranks: RunResult) -> None:
    for rank in sixteen_ranks.ranks:
        spans = rank.timeline
        times = [time for span in spans for time in (span.start_seconds, span.end_seconds)]
        assert times == sorted(times)  # so no span lies inside another either
        assert times[0] >= 0
        assert times[-1] <= rank.step_seconds[-1]
        for phase in PHASES:
            seconds = sum(span.end_seconds - span.start_seconds for span in spans if span.phase == phase)
            assert seconds == pytest.approx(rank.phases_seconds[phase][-1], abs=1e-9)


def test_the_timeline_shows_one_forward_one_backward(sixteen_ranks: RunResult) -> None:
    """Two micro-batches on two stages: the first stage fills the pipeline, the last never waits to go back."""
    for rank in sixteen_ranks.ranks:
        passes = [span.phase[0] for span in rank.timeline if span.phase in ("forward", "backward")]
        assert "".join(passes) == ("ffbb", "fbfb")[rank.stage]
        phases = [span.phase for span in rank.timeline]
        assert (phases[0], phases[-1]) == ("data", "report")
        assert "pipeline" in phases


def test_every_token_reaches_its_experts(sixteen_ranks: RunResult) -> None:
    recipe = load_recipe("grok1-nano")
    routed = recipe.tokens_per_step * recipe.model.experts_per_token * len(sixteen_ranks.steps)
    assert [sum(layer) for layer in sixteen_ranks.expert_load] == [routed] * recipe.model.num_layers


def test_all_ranks_report_with_their_stage(sixteen_ranks: RunResult) -> None:
    assert [rank.rank for rank in sixteen_ranks.ranks] == list(range(16))
    assert [rank.stage for rank in sixteen_ranks.ranks] == [0] * 8 + [1] * 8


@pytest.mark.slow
def test_recomputing_activations_changes_no_number(train: Train, one_rank: RunResult) -> None:
    """Neither the losses nor what each expert got, though every router then runs twice."""
    result = train(2, *ONE_RANK, "training.recompute=full")
    for ours, theirs in zip(result.steps, one_rank.steps[:2], strict=True):
        for name in ("loss", "aux_loss", "grad_norm"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6)
    recipe = load_recipe("grok1-nano")
    pairs = 2 * recipe.tokens_per_step * recipe.model.experts_per_token
    assert [sum(layer) for layer in result.expert_load] == [pairs] * recipe.model.num_layers

"""What the ledger counts of interleaved and uneven stages without data is what real ranks do, figure by figure."""

from __future__ import annotations

from typing import Any

import pytest

import tests.bench.ledger.ledger_reality_entries as entries
from bench.ledger.count import count
from bench.ledger.extension import extension
from bench.ledger.schema import RankLedger, differences
from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare

TWO_STAGES = (*ONE_RANK, "parallel.world_size=2", "parallel.pipeline=2", "training.clip_grad=1e-6")
CASES = {
    "interleaved, uneven": ("model.num_layers=6", "parallel.virtual_pipeline=2", "parallel.last_stage_layers=2")
    + ("training.global_batch=8",),
    "uneven, tied": ("model.num_layers=3", "parallel.first_stage_layers=1", "model.tie_embeddings=true")
    + ("training.global_batch=6",),
    "interleaved replicas, stages adjacent": ("model.num_layers=4", "parallel.virtual_pipeline=2")
    + ("parallel.world_size=4", "parallel.order=tp-cp-ep-pp-dp", "training.global_batch=16")
    + ("kernels.gradient_reduction=overlapped",),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_rank_of_each_stage_is_counted_as_it_runs(case: str) -> None:
    """Every figure, and memory within two percent."""
    recipe = load_recipe("grok1-nano", [*TWO_STAGES, *CASES[case]])
    assert extension(recipe, 0).more, "what is compared has been extended"
    fake = count(recipe)
    assert [(rank.rank, rank.stage) for rank in fake.ranks] == [(0, 0), (1, 1)]
    job: Any = prepare(recipe, 1)
    found = launch(job, recipe, "cpu", entry=f"{entries.__name__}:metered", timeout_seconds=60.0)
    alike = recipe.parallel.data
    real = [RankLedger.model_validate_json(each).model_copy(update={"ranks_alike": alike}) for each in found[:2]]
    assert [rank.stage for rank in real] == [0, 1]
    unlike = differences(fake, fake.model_copy(update={"ranks": real}))
    assert [each for each in unlike if each.what != "memory"] == []
    for ours, theirs in zip(fake.ranks, real, strict=True):
        assert ours.memory.peak_bytes == pytest.approx(theirs.memory.peak_bytes, rel=0.02), ours.rank
        assert ours.memory.static_bytes == pytest.approx(theirs.memory.static_bytes, rel=0.02), ours.rank


@pytest.mark.parametrize(("micro_batches", "run", "groups_more"), [(2, 2, 0), (4, 4, 0), (6, 6, 0), (12, 6, 3)])
def test_three_groups_of_an_interleaved_pipeline_run_or_all(micro_batches: int, run: int, groups_more: int) -> None:
    chunks = ("model.num_layers=4", "parallel.virtual_pipeline=2", f"training.global_batch={micro_batches}")
    step = extension(load_recipe("grok1-nano", [*TWO_STAGES, *chunks]), 0)
    assert (step.run, step.more, step.group, step.forwards_a_group) == (run, groups_more, 2, 4)

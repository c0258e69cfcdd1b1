"""What the ledger counts of interleaved and uneven stages without data is what real ranks do, figure by figure."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import tests.bench.ledger.ledger_entries as ledger_entries
import tests.bench.ledger.ledger_reality_entries as entries
from bench.ledger.count import count
from bench.ledger.extension import extension
from bench.ledger.schema import RankLedger, differences
from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch, rank_context
from grok1.training.job import prepare
from tests.limits import HANG_SECONDS

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


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_first_rank_of_each_stage_is_counted_as_it_runs(case: str) -> None:
    """Every figure, and memory within two percent."""
    recipe = load_recipe("grok1-nano", [*TWO_STAGES, *CASES[case]])
    assert extension(recipe, 0).more, "what is compared has been extended"
    fake = count(recipe)
    assert [(rank.rank, rank.stage) for rank in fake.ranks] == [(0, 0), (1, 1)]
    job: Any = prepare(recipe, 1)
    found = launch(job, recipe, "cpu", entry=f"{entries.__name__}:metered", timeout_seconds=HANG_SECONDS)
    alike = recipe.parallel.data
    real = [RankLedger.model_validate_json(each).model_copy(update={"ranks_alike": alike}) for each in found[:2]]
    assert [rank.stage for rank in real] == [0, 1]
    unlike = differences(fake, fake.model_copy(update={"ranks": real}))
    assert [each for each in unlike if each.what != "memory"] == []
    for ours, theirs in zip(fake.ranks, real, strict=True):
        assert ours.memory.peak_bytes == pytest.approx(theirs.memory.peak_bytes, rel=0.02), ours.rank
        assert ours.memory.static_bytes == pytest.approx(theirs.memory.static_bytes, rel=0.02), ours.rank


FOUR_STAGES = (*ONE_RANK, "parallel.world_size=4", "parallel.pipeline=4", "parallel.virtual_pipeline=2")


@pytest.mark.parametrize(
    ("micro_batches", "run"), [(4, [4, 4, 4, 4]), (8, [8, 8, 8, 8]), (12, [12, 12, 8, 8]), (32, [12, 12, 8, 8])]
)
def test_a_stage_runs_the_groups_that_fill_it_and_one_or_all(micro_batches: int, run: list[int]) -> None:
    """Two on the later half of the stages, else three."""
    chunks = ("model.num_layers=8", f"training.global_batch={micro_batches}")
    recipe = load_recipe("grok1-nano", [*FOUR_STAGES, *chunks])
    steps = [extension(recipe, stage) for stage in range(4)]
    assert [step.run for step in steps] == run
    for step in steps:
        assert (step.group, step.forwards_a_group) == (4, 8)
        assert step.run + step.more * step.group == micro_batches
        assert step.run + step.more_in_memory * step.group == run[0]


@pytest.mark.slow
def test_two_groups_give_what_three_do_on_the_later_stages_to_the_byte() -> None:
    """A step of three groups, of which all ran."""
    more = ("model.num_layers=8", "training.global_batch=12", "kernels.gradient_reduction=overlapped")
    recipe = load_recipe("grok1-nano", [*FOUR_STAGES, *more, "kernels.param_gather=overlapped"])
    later = [2, 3]
    assert [extension(recipe, stage).more for stage in later] == [1, 1]
    extended = count(recipe, later)
    with ProcessPoolExecutor(2, mp_context=rank_context("cpu", "grok1.training.fake_step")) as pool:
        whole = list(pool.map(ledger_entries.counted_directly, [(recipe, rank) for rank in later]))
    for ours, theirs in zip(extended.ranks, whole, strict=True):
        assert ours.model_copy(update={"timeline": []}) == theirs.model_copy(update={"timeline": []})

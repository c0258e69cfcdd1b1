"""Whatever layout a recipe accepts trains as one rank does: losses, gradients, their norm, and the updated weights.

`make layouts` tries all layouts, each in three ways; a plain run tries the same few each time.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable

import pytest

from grok1.config.recipe import Recipe
from grok1.config.sections import Parallel
from grok1.distributed.launch import launch
from tests.layouts.entries import Errors
from tests.layouts.plan import DISPATCHERS, Trial, accepted_trials, is_mistrained_by_megatron, sampled
from tests.limits import HANG_SECONDS
from tests.lines import MARKS_EXPERTS_ITSELF

SAMPLE = {2: 3, 4: 6, 8: 4, 16: 3}  # trials by ranks
WORLD_SIZES = (1, 2, 4, 8, 16)
# relative; 5 to 10 times the largest of all layouts: fp32 sums in another order
FIGURES, GRADIENTS = 2e-6, 2e-5
# trials: megatron keeps the groups of each by its hooks, and their threads are all that a system has (32,768) after a
# hundred of 16 ranks
_ONE_START = 40


def run_trials(trials: list[Trial], entry: str = "run_trials") -> list[Errors]:
    """Their errors, all of one number of ranks, which start once."""
    started_with = accepted_trials(trials[0].recipe.parallel.world_size)[0].recipe  # its parts are there on a CPU
    found: list[Errors] = launch(
        trials,
        started_with,
        "cpu",
        on_event=lambda name: print(name, file=sys.stderr),  # which one hung or failed
        entry=f"tests.layouts.entries:{entry}",
        timeout_seconds=HANG_SECONDS,
    )
    return found


def wrong(found: list[Errors], figures: float = FIGURES) -> list[Errors]:
    """Those beyond a bound; what is not a number is. `figures` bounds losses, norms and weights."""
    return [
        each
        for each in found
        if not (max(each.loss, each.grad_norm, each.weight) <= figures and each.gradient <= GRADIENTS)
        or each.differing_replicas
    ]


def one_then_all(world_sizes: Iterable[int]) -> pytest.MarkDecorator:
    """For a test of (world_size, most): one trial of the fewest ranks, then, slow, all of each number of ranks."""
    fewest, *_ = sizes = sorted(world_sizes)
    cases = [(fewest, 1), *(pytest.param(size, None, marks=pytest.mark.slow) for size in sizes)]
    return pytest.mark.parametrize(("world_size", "most"), cases)


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("world_size", SAMPLE)
def test_layouts_train_as_one_rank_does(world_size: int) -> None:
    trials = sampled(accepted_trials(world_size), SAMPLE[world_size])
    found = run_trials(trials)
    assert [each.trial for each in found] == [trial.name for trial in trials]
    assert not wrong(found)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("dispatcher", range(len(DISPATCHERS)), ids=["alltoall", "allgather", "merged"])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_layout_trains_as_one_rank_does(
    world_size: int, dispatcher: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if not request.config.getoption("--all-layouts"):
        pytest.skip("a sample is tried above; all with --all-layouts (make layouts)")
    trials = accepted_trials(world_size)[dispatcher :: len(DISPATCHERS)]
    found = [each for at in range(0, len(trials), _ONE_START) for each in run_trials(trials[at : at + _ONE_START])]
    assert len(found) == len(trials)
    worst = max(found, key=lambda each: each.gradient)
    with capsys.disabled():
        print(f"\n{world_size} ranks: {len(found)} layouts, gradients within {worst.gradient:.1e} ({worst.trial})")
    assert not wrong(found)


@pytest.mark.slow
def test_stock_megatron_mistrains_experts_that_are_split_unlike_attention() -> None:
    # when no line does any more, mark_experts_apart can go
    unlike = [trial for trial in accepted_trials(4) if is_mistrained_by_megatron(trial.recipe)]
    trials = [next(trial for trial in unlike if trial.recipe.parallel.tensor == tensor) for tensor in (1, 4)]
    found = run_trials(trials, "run_without_marks")
    assert wrong(found) == ([] if MARKS_EXPERTS_ITSELF else found)
    assert all((each.gradient > 0.5) is not MARKS_EXPERTS_ITSELF for each in found)


# ---- what is tried -------------------------------------------------------------------------------------


def _sizes(parallel: Parallel) -> tuple[int, ...]:
    return parallel.pipeline, parallel.tensor, parallel.expert, parallel.expert_tensor


@pytest.mark.matrix(keep=3)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_all_that_a_recipe_accepts_is_tried(world_size: int) -> None:
    axes = itertools.product(range(1, world_size + 1), repeat=4)
    accepted = {sizes for sizes in axes if _is_accepted(world_size, *sizes)}
    for first in range(len(DISPATCHERS)):
        trials = accepted_trials(world_size)[first :: len(DISPATCHERS)]
        assert {_sizes(trial.recipe.parallel) for trial in trials} == accepted
        assert len(trials) == len(accepted)


def _is_accepted(world_size: int, pipeline: int, tensor: int, expert: int, expert_tensor: int) -> bool:
    try:
        Parallel(world_size=world_size, tensor=tensor, pipeline=pipeline, expert=expert, expert_tensor=expert_tensor)
    except ValueError:
        return False
    return True


def test_the_sample_holds_layouts_that_stock_megatron_mistrains_and_others() -> None:
    for world_size, count in SAMPLE.items():
        trials = sampled(accepted_trials(world_size), count)
        assert len({trial.name for trial in trials}) == count
        assert {is_mistrained_by_megatron(trial.recipe) for trial in trials} == {True, False}


def test_one_rank_computes_what_the_layout_does() -> None:
    for trial in accepted_trials(4):
        alone: Recipe = trial.on_one_rank
        assert alone.parallel.world_size == 1
        assert alone.training.global_batch == trial.recipe.training.global_batch
        assert alone.model == trial.recipe.model

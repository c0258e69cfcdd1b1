"""Training that goes on from and into sequences split over ranks, interleaved chunks and uneven stages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from grok1.config.load import ONE_RANK
from grok1.training.result import RunResult
from tests.grok1.conftest import Train, column
from tests.lines import WITH_OTHER_LAYOUTS

SAME, SAME_NORM = 1e-6, 1e-5  # relative; fp32 sums in another order
SAVED, STEPS = 2, 6
METRICS = ("loss", "grad_norm", "aux_loss", "learning_rate")
ALONE = (*ONE_RANK, "model.num_layers=6", "training.global_batch=4")
INTERLEAVED = ("parallel.pipeline=2", "parallel.virtual_pipeline=3")
LAYOUTS = {
    "one rank": ALONE,
    "context": (*ALONE, "parallel.world_size=2", "parallel.context=2"),
    "heads exchanged": (*ALONE, "parallel.world_size=2", "parallel.context=2", "parallel.context_exchange=a2a"),
    "context, expert": (*ALONE, "parallel.world_size=4", "parallel.context=2", "parallel.expert=2"),
    "context, tensor, expert": (*ALONE, "parallel.world_size=4", "parallel.context=2")
    + ("parallel.tensor=2", "parallel.expert=2", "parallel.expert_tensor=1"),
    "uneven": (*ALONE, "parallel.world_size=2", "parallel.pipeline=2", "parallel.first_stage_layers=1"),
    "interleaved": (*ALONE, "parallel.world_size=2", *INTERLEAVED),
    "interleaved, expert": (*ALONE, "parallel.world_size=4", *INTERLEAVED, "parallel.expert=2"),
    "interleaved, uneven": (*ALONE, "parallel.world_size=2", "parallel.pipeline=2")
    + ("parallel.virtual_pipeline=2", "parallel.last_stage_layers=2"),
    "interleaved, context": (*ALONE, "parallel.world_size=4", *INTERLEAVED, "parallel.context=2"),
}


@pytest.fixture(scope="module")
def written(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint that a layout wrote, when it is first asked for."""

    @functools.cache
    def write(layout: str) -> Path:
        folder = tmp_path_factory.mktemp("written")
        train(SAVED, *LAYOUTS[layout], save=folder)
        return folder

    return write


@pytest.fixture(scope="module")
def alone(train: Train) -> RunResult:
    """One rank that never stops."""
    result: RunResult = train(STEPS, *ALONE)
    return result


@pytest.mark.slow
@WITH_OTHER_LAYOUTS
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("one rank", "heads exchanged"),
        ("one rank", "interleaved, uneven"),
        ("context, expert", "one rank"),
        ("context, expert", "interleaved, expert"),
        ("uneven", "interleaved"),
        ("interleaved, uneven", "context"),
        ("interleaved, uneven", "uneven"),
        ("interleaved, context", "context, tensor, expert"),
    ],
)
def test_another_layout_goes_on_as_if_nothing_had_stopped(
    writer: str, reader: str, written: Callable[[str], Path], train: Train, alone: RunResult
) -> None:
    resumed = train(STEPS, *LAYOUTS[reader], load=written(writer), allowed_changes=("parallel",))
    assert column(resumed, "step") == list(range(SAVED, STEPS))
    for name in METRICS:
        same = SAME_NORM if name == "grad_norm" else SAME
        assert column(resumed, name) == pytest.approx(column(alone, name)[SAVED:], rel=same)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["context, expert", "interleaved, uneven"])
def test_the_same_layout_goes_on_bit_by_bit(layout: str, written: Callable[[str], Path], train: Train) -> None:
    whole = train(STEPS, *LAYOUTS[layout])
    resumed = train(STEPS, *LAYOUTS[layout], load=written(layout))
    for name in METRICS:
        assert column(resumed, name) == column(whole, name)[SAVED:]

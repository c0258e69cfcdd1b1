"""A folder of checkpoints: read once to resume, and refused where the recipe is another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.weights.folder import LATEST, StoredCheckpoint, finish_step, holds_checkpoint, partial_folder, start_step
from tests.grok1.conftest import Train
from tests.grok1.opened_files import opened_below


def stored(folder: Path, step: int, *overrides: str) -> StoredCheckpoint:
    """A step's folder as a save leaves it, but for megatron's files."""
    start_step(folder, step)
    finish_step(folder, step, load_recipe("grok1-nano", overrides))
    return StoredCheckpoint.open(folder)


def test_resuming_reads_the_folder_once(train: Train, tmp_path: Path) -> None:
    train(1, *ONE_RANK, save=tmp_path)
    entry = "tests.grok1.weights.weights_entries:opened_by_resuming"
    opened = train(2, *ONE_RANK, load=tmp_path, entry=entry)
    assert opened["common.pt"] > 0  # else the count counts nothing
    assert (opened[LATEST], opened["recipe.json"]) == (1, 1)


def test_opening_reads_two_files_once(tmp_path: Path) -> None:
    expected = stored(tmp_path, 3)
    with opened_below(tmp_path) as opened:
        assert StoredCheckpoint.open(tmp_path) == expected
    assert opened == {LATEST: 1, "recipe.json": 1}


def test_a_step_counts_once_it_is_finished(tmp_path: Path) -> None:
    first = stored(tmp_path, 1)
    start_step(tmp_path, 2)
    assert StoredCheckpoint.open(tmp_path) == first
    finish_step(tmp_path, 2, first.recipe)
    second = StoredCheckpoint.open(tmp_path)
    assert (second.step, second.step_folder.name) == (2, "iter_0000002")
    assert not partial_folder(tmp_path, 2).exists()


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert not holds_checkpoint(tmp_path)
    start_step(tmp_path, 1)
    assert not holds_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        StoredCheckpoint.open(tmp_path)


def test_weights_alone_resume_in_another_layout_and_a_step_does_not(tmp_path: Path) -> None:
    other = load_recipe("grok1-nano", ONE_RANK)
    stored(tmp_path / "weights", 0).check_resumable(other)
    with pytest.raises(
        ValueError, match=r"was written with parallel\.world_size=16, the recipe says 1; use the recipe"
    ):
        stored(tmp_path / "step", 1).check_resumable(other)


@pytest.mark.parametrize("step", [0, 1])
def test_another_model_is_refused_with_the_advice(step: int, tmp_path: Path) -> None:
    checkpoint, other = stored(tmp_path, step), load_recipe("grok1-nano", ["model.rope_base=5"])
    with pytest.raises(ValueError, match=r"was written with model\.rope_base=10000, the recipe says 5; do this$"):
        checkpoint.check_model(other, "do this")
    with pytest.raises(ValueError, match=r"model\.rope_base=10000"):
        checkpoint.check_resumable(other)

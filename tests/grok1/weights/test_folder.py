"""A folder of checkpoints: read once to resume, and refused where the recipe is another one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.megatron.installed import megatron_line
from grok1.weights.folder import (
    LATEST,
    MEGATRON_FORMAT,
    StoredCheckpoint,
    abandon_step,
    check_changeable,
    finish_step,
    holds_checkpoint,
    partial_folder,
    start_step,
)
from tests.grok1.conftest import Train
from tests.grok1.opened_files import opened_below


def stored(folder: Path, step: int, *overrides: str, corpus: str = "") -> StoredCheckpoint:
    """A step's folder as a save leaves it, but for megatron's files."""
    start_step(folder, step)
    finish_step(folder, step, load_recipe("grok1-nano", overrides), corpus=corpus, megatron=megatron_line())
    return StoredCheckpoint.open(folder)


def test_resuming_reads_the_folder_once(train: Train, tmp_path: Path) -> None:
    train(1, *ONE_RANK, save=tmp_path)
    entry = "tests.grok1.weights.weights_entries:opened_by_resuming"
    opened = train(2, *ONE_RANK, load=tmp_path, entry=entry)
    assert opened[".metadata"] > 0  # else the count counts nothing
    assert (opened[LATEST], opened["recipe.json"]) == (1, 1)


def test_opening_reads_three_files_once(tmp_path: Path) -> None:
    expected = stored(tmp_path, 3)
    with opened_below(tmp_path) as opened:
        assert StoredCheckpoint.open(tmp_path) == expected
    assert opened == {LATEST: 1, "manifest.json": 1, "recipe.json": 1}


def test_a_step_counts_once_it_is_finished(tmp_path: Path) -> None:
    first = stored(tmp_path, 1)
    start_step(tmp_path, 2)
    assert StoredCheckpoint.open(tmp_path) == first
    finish_step(tmp_path, 2, first.recipe, megatron=megatron_line())
    second = StoredCheckpoint.open(tmp_path)
    assert (second.step, second.step_folder.name) == (2, "iter_0000002")
    assert not partial_folder(tmp_path, 2).exists()


def begun(folder: Path, job: str) -> None:
    """Files of the first step as this job writes them."""
    partial = start_step(folder, 1, job)
    (partial / "weights").write_text(job)
    (partial / "metadata.json").write_text(json.dumps(MEGATRON_FORMAT))


def test_two_jobs_that_save_one_step_to_one_folder_do_not_mix(tmp_path: Path) -> None:
    """The second began before the first had ended: its files had the recipe and the checksums of the first."""
    recipes = {job: load_recipe("grok1-nano", (f"training.seed={seed}",)) for job, seed in (("a", 1), ("b", 2))}
    for job in recipes:
        begun(tmp_path, job)
    for job in ("a", "b"):
        finish_step(tmp_path, 1, recipes[job], megatron=megatron_line(), job=job)
        found = StoredCheckpoint.open(tmp_path)
        found.verify()
        assert found.recipe == recipes[job]
        assert (found.step_folder / "weights").read_text() == job


def test_a_job_that_gives_up_a_step_leaves_that_of_another(tmp_path: Path) -> None:
    for job in ("a", "b"):
        begun(tmp_path, job)
    abandon_step(tmp_path, 1, "a")
    finish_step(tmp_path, 1, load_recipe("grok1-nano"), megatron=megatron_line(), job="b")
    StoredCheckpoint.open(tmp_path).verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000001", LATEST]


def test_what_a_killed_job_left_of_a_step_goes_after_an_hour(tmp_path: Path) -> None:
    left, other = start_step(tmp_path, 1, "dead"), start_step(tmp_path, 2, "dead")
    (left / "weights").touch()
    start_step(tmp_path, 1, "next")
    assert left.exists(), "it may be a job that saves now"
    for path in (left / "weights", left, other):
        os.utime(path, (0, 0))
    start_step(tmp_path, 1, "last")
    assert not left.exists()
    assert not other.exists(), "of another step, which may never be saved again"
    assert {path.name for path in tmp_path.iterdir()} == {"iter_0000001.next.partial", "iter_0000001.last.partial"}


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert not holds_checkpoint(tmp_path)
    start_step(tmp_path, 1)
    assert not holds_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        StoredCheckpoint.open(tmp_path)


def test_weights_alone_resume_in_another_layout_and_a_step_does_not(tmp_path: Path) -> None:
    other = load_recipe("grok1-nano", ONE_RANK)
    stored(tmp_path / "weights", 0).check_resumable(other)
    with pytest.raises(ValueError, match=r"was written with parallel\.world_size=16, now 1, .*; use the layout"):
        stored(tmp_path / "step", 1).check_resumable(other)


@pytest.mark.parametrize("step", [0, 1])
def test_another_model_is_refused_with_the_advice(step: int, tmp_path: Path) -> None:
    checkpoint, other = stored(tmp_path, step), load_recipe("grok1-nano", ["model.rope_base=5"])
    with pytest.raises(ValueError, match=r"was written with model\.rope_base=10000, the recipe says 5; do this$"):
        checkpoint.check_model(other, "do this")
    with pytest.raises(ValueError, match=r"model\.rope_base=10000"):
        checkpoint.check_resumable(other)


# ---- what decides the numbers of a step ----------------------------------------------------------------

CHANGES = {
    "training.global_batch": "8",
    "training.seed": "7",
    "training.sequence_length": "64",
    "training.micro_batch": "2",
    "training.learning_rate": "0.002",
    "training.decay_steps": "300",
    "training.adam_beta2": "0.99",
    "training.clip_grad": "2.0",
    "data.split": "1,1,1",
    "data.tokenizer_type": "PretrainedFromHF",
}


@pytest.mark.parametrize("key", CHANGES)
def test_resuming_another_training_names_both_values_and_the_switch(tmp_path: Path, key: str) -> None:
    checkpoint, other = stored(tmp_path, 1), load_recipe("grok1-nano", [f"{key}={CHANGES[key]}"])
    section, name = key.split(".")
    then, now = (each.resolved()[section][name] for each in (checkpoint.recipe, other))
    with pytest.raises(ValueError, match="was trained with") as refused:
        checkpoint.check_resumable(other)
    assert f"{key}={then}, now {now}; leave it as it was" in str(refused.value)
    assert f"--allow-change {key}" in str(refused.value)
    check_changeable([key])
    checkpoint.check_resumable(other, allowed=[key])


def test_only_what_was_allowed_may_change(tmp_path: Path) -> None:
    checkpoint = stored(tmp_path, 1)
    other = load_recipe("grok1-nano", ["training.seed=7", "training.clip_grad=2.0"])
    with pytest.raises(
        ValueError, match=r"trained with training\.clip_grad=1\.0, now 2\.0; .*change training\.clip_grad$"
    ):
        checkpoint.check_resumable(other, allowed=["training.seed"])


def test_another_number_format_cannot_be_allowed(tmp_path: Path) -> None:
    other = load_recipe("grok1-nano", ["training.dtype=bf16"])
    with pytest.raises(ValueError, match=r"training\.dtype=fp32, now bf16; training\.dtype cannot change"):
        stored(tmp_path, 1).check_resumable(other)


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        (
            "training.dtype",
            r"leave it as it was, or go on from the checkpoint's weights: `grok1 convert DIR SAFETENSORS`$",
        ),
        ("training.recompute", r"leave it out: it may differ without a word, as it changes no number$"),
        ("parallel.tensor", r"a layout changes as a whole: give parallel$"),
        ("training.sed", r"give training\.seed\? \(one key each time; data\.corpus, data\.tokenizer and parallel are"),
        ("training.seed,parallel", r"give training\.seed\? \(one key each time;"),
        ("model.num_layers", r"give a key of training or data like training\.seed, \(one key each time;"),
        ("", r"give a key of training or data"),
    ],
)
def test_a_key_that_may_not_change_is_refused_with_what_to_give_instead(key: str, instead: str) -> None:
    with pytest.raises(ValueError, match=rf"^--allow-change '{key}' is not a value that may change; {instead}"):
        check_changeable(["training.seed", key])


def test_recomputing_and_kernels_may_change_without_a_word(tmp_path: Path) -> None:
    other = load_recipe(
        "grok1-nano",
        ["training.recompute=full", "training.recompute_method=block", "training.recompute_layers=1"]
        + ["kernels.cross_entropy=megatron"],
    )
    stored(tmp_path, 1).check_resumable(other)


@pytest.mark.parametrize("writer", ["sequential", "fused", "te_grouped"])
@pytest.mark.parametrize("reader", ["sequential", "fused", "te_grouped"])
def test_only_experts_whose_weights_lie_alike_go_on_with_each_others_optimizer(
    tmp_path: Path, writer: str, reader: str
) -> None:
    """Those of Transformer Engine are not transposed, but in another order: all fc1, then all fc2."""
    checkpoint = stored(tmp_path, 1, f"kernels.experts={writer}")
    recipe = load_recipe("grok1-nano", [f"kernels.experts={reader}"])
    if writer == reader or "te_grouped" not in (writer, reader):
        checkpoint.check_resumable(recipe)
        return
    with pytest.raises(ValueError, match=f"written with kernels.experts={writer}, the recipe says {reader}, .*resume"):
        checkpoint.check_resumable(recipe)


def test_imported_weights_start_any_training(tmp_path: Path) -> None:
    changes = [f"{key}={value}" for key, value in CHANGES.items()]
    stored(tmp_path, 0).check_resumable(load_recipe("grok1-nano", changes), "another")


def test_another_tokenizer_is_refused_by_its_digest(tmp_path: Path) -> None:
    start_step(tmp_path, 1)
    finish_step(tmp_path, 1, load_recipe("grok1-nano"), tokenizer="0123", megatron=megatron_line())
    checkpoint = StoredCheckpoint.open(tmp_path)
    checkpoint.check_resumable(checkpoint.recipe, tokenizer="0123")
    checkpoint.check_resumable(checkpoint.recipe)  # not known
    assert "tokenizer" not in checkpoint.manifest.model_copy(update={"tokenizer": ""}).text()  # as manifests were
    checkpoint.check_resumable(checkpoint.recipe, "", ["data.tokenizer"], tokenizer="4567")
    with pytest.raises(ValueError, match=r"data\.tokenizer=0123, now 4567; .*--allow-change data\.tokenizer"):
        checkpoint.check_resumable(checkpoint.recipe, tokenizer="4567")


@pytest.mark.parametrize(("written", "installed"), [("0.12", "0.16"), ("0.16", "0.12"), ("", "0.16")])
def test_another_line_of_megatron_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, installed: str
) -> None:
    start_step(tmp_path, 1)
    finish_step(tmp_path, 1, load_recipe("grok1-nano"), megatron=written)
    checkpoint = StoredCheckpoint.open(tmp_path)
    assert ("megatron" in checkpoint.manifest.text()) == bool(written)  # without it, as manifests were
    monkeypatch.setattr("grok1.weights.folder.megatron_line", lambda: installed)
    expected = (
        rf"was written by megatron-core {written or '0.12'}, .* {installed} does not .*; resume with .*grok1 conv"
    )
    with pytest.raises(ValueError, match=expected):
        checkpoint.check_resumable(checkpoint.recipe)
    monkeypatch.setattr("grok1.weights.folder.megatron_line", lambda: written or "0.12")
    checkpoint.check_resumable(checkpoint.recipe)


def test_imported_weights_are_of_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = stored(tmp_path, 0)
    monkeypatch.setattr("grok1.weights.folder.megatron_line", lambda: "another")
    checkpoint.check_resumable(checkpoint.recipe)


def test_another_corpus_is_refused_by_its_digest(tmp_path: Path) -> None:
    checkpoint = stored(tmp_path, 1, corpus="0123")
    checkpoint.check_resumable(checkpoint.recipe, "0123")
    checkpoint.check_resumable(checkpoint.recipe, "4567", ["data.corpus"])
    with pytest.raises(ValueError, match=r"data\.corpus=0123, now 4567; .*--allow-change data\.corpus"):
        checkpoint.check_resumable(checkpoint.recipe, "4567")

"""Every accident to a checkpoint's files is named in one line before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grok1.config.load import load_recipe
from grok1.weights import manifest
from grok1.weights.folder import MEGATRON_FORMAT, StoredCheckpoint, finish_step, seal, start_step
from grok1.weights.manifest import MANIFEST, FileSum, Manifest, read_manifest, write_manifest
from tests.grok1.weights.sealing import seal_again

SHARDS = [f"__{rank}_{part}.distcp" for rank in range(6) for part in range(2)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Steps 2 and 4 of twelve shards each, written as a save does; returns the folder of step 4."""
    for step in (2, 4):
        partial = start_step(tmp_path, step)
        for number, name in enumerate(SHARDS):
            (partial / name).write_bytes(bytes([step, number]) * 5000)
        (partial / "common.pt").write_bytes(b"common of step %d" % step)
        (partial / ".metadata").write_bytes(b"metadata")
        (partial / "metadata.json").write_text(json.dumps(MEGATRON_FORMAT))
        finish_step(tmp_path, step, load_recipe("grok1-nano"))
    return tmp_path / "iter_0000004"


def verify(step_folder: Path) -> None:
    StoredCheckpoint.open(step_folder.parent).verify()


def test_a_whole_checkpoint_passes(saved: Path) -> None:
    verify(saved)


@pytest.mark.parametrize("name", [*SHARDS, "common.pt", ".metadata", "metadata.json", "recipe.json"])
def test_a_flipped_bit_in_any_file_is_named(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"iter_0000004: {name} is not what was written: its checksum differs; copy"):
        verify(saved)


def _swap(folder: Path) -> None:
    one, other = (folder / name for name in SHARDS[3:5])
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)


def _older(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder.with_name("iter_0000002") / name, folder / name)


def _whole_older(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("iter_0000002"), folder)


def _other_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"step": 4', '"step": 5'))


def _pipe(name: str) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return put


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "two shards swapped": (
        _swap,
        r"__1_1\.distcp holds what belongs into __2_0\.distcp; __2_0\.distcp holds what belongs into __1_1\.distcp",
    ),
    "a shard of an older step": (_older(SHARDS[7]), r"__3_1\.distcp is of step 2; copy"),
    "a common file of another step": (_older("common.pt"), r"common\.pt is of step 2; copy"),
    "all of another step": (_whole_older, r"holds the files of step 2, not of step 4; copy"),
    "a shard cut short": (
        lambda folder: os.truncate(folder / SHARDS[0], 9000),
        r"__0_0\.distcp has 9000 bytes in place of 10000; copy",
    ),
    "an empty shard": (lambda folder: os.truncate(folder / SHARDS[0], 0), r"__0_0\.distcp has 0 bytes in place"),
    "a shard missing": (lambda folder: (folder / SHARDS[0]).unlink(), r"__0_0\.distcp is missing; copy"),
    "metadata missing": (lambda folder: (folder / ".metadata").unlink(), r"\.metadata is missing; copy"),
    "recipe missing": (lambda folder: (folder / "recipe.json").unlink(), r"recipe\.json cannot be read: No such file"),
    "a file too many": (lambda folder: (folder / "__9_0.distcp").touch(), r"__9_0\.distcp does not belong to it; copy"),
    "a pipe": (_pipe("common.pt"), r"common\.pt is not a file; copy"),
    "a pipe for a recipe": (_pipe("recipe.json"), r"recipe\.json is not a file; copy"),
    "a pipe for a manifest": (_pipe(MANIFEST), r"manifest\.json is not a file; copy"),
    "manifest missing": (lambda folder: (folder / MANIFEST).unlink(), r"manifest\.json is missing, so .*grok1 seal"),
    "manifest cut short": (lambda folder: os.truncate(folder / MANIFEST, 300), r"manifest\.json is damaged; copy"),
    "manifest of another step": (_other_manifest, r"manifest\.json is damaged; copy"),
    "manifest of nothing": (lambda folder: (folder / MANIFEST).write_text("[]"), r"manifest\.json is damaged; copy"),
    "manifest too deep": (lambda folder: (folder / MANIFEST).write_text("[" * 99999), r"manifest\.json is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_accident_is_named_in_one_line(saved: Path, fault: str) -> None:
    happen, complaint = FAULTS[fault]
    happen(saved)
    with pytest.raises(ValueError, match=complaint) as refused:
        verify(saved)
    assert "\n" not in str(refused.value)


def test_a_manifest_names_no_file_outside_its_folder(saved: Path) -> None:
    (saved.parent / "outside").write_bytes(b"1")
    text = (saved / MANIFEST).read_text().replace("common.pt", "../outside")
    (saved / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        verify(saved)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "..", "", "a\0b", "a\nb", "x" * 300, "x" * 3_000_000, "recipe.json/x"],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_that_is_no_file_of_the_folder_is_missing(saved: Path, name: str) -> None:
    (saved.parent / "outside").write_bytes(b"1")
    held = read_manifest(saved, 4)
    wanted = FileSum(bytes=1, xxh3_128="0" * 32)
    write_manifest(saved, held.model_copy(update={"files": {**held.files, name: wanted}}))
    with pytest.raises(ValueError, match=r"iter_0000004: .* is missing; copy") as refused:
        verify(saved)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_many_damaged_files_are_counted_and_the_other_steps_read_once(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(folder: Path, step: int) -> Manifest:
        read.append(folder)
        return read_manifest(folder, step)

    monkeypatch.setattr(manifest, "read_manifest", counted)
    for name in SHARDS:
        (saved / name).write_bytes(bytes(10_000))
    with pytest.raises(ValueError, match=r"__2_0\.distcp is not what was written.*; and 7 more; copy"):
        verify(saved)
    assert len(read) == 1


def test_another_format_is_refused_whatever_its_checksum(saved: Path) -> None:
    (saved / "metadata.json").write_text(json.dumps({**MEGATRON_FORMAT, "sharded_backend": "zarr"}))
    seal_again(saved)
    with pytest.raises(ValueError, match=r"metadata\.json names another format than torch_dist"):
        verify(saved)


def test_an_older_checkpoint_is_sealed_once(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    assert seal(saved.parent) == 4
    verify(saved)
    with pytest.raises(ValueError, match="has checksums; if you changed"):
        seal(saved.parent)

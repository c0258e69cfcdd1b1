"""Where a sample index is kept: whole or not at all, built anew when damaged, refused where it has no place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok1.config.load import load_recipe
from grok1.data import sample_index
from grok1.data.sample_index import (
    ARRAYS,
    Size,
    ensure_index,
    find_index,
    index_folders,
    index_size,
    read_index,
    wanted_index,
)

WANTED = wanted_index(load_recipe("grok1-nano"), "0123456789abcdef")
SIZE = Size(samples=9, bytes=5000)


def build(folder: Path) -> None:
    """A small index, as megatron would have left it."""
    np.save(folder / ARRAYS[0], np.arange(5, dtype=np.int32))
    np.save(folder / ARRAYS[1], np.zeros((10, 2), np.int32))
    np.save(folder / ARRAYS[2], np.arange(9, dtype=np.uint32))


class Builds:
    """Counts how often an index is built."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        build(folder)


def leftovers(folder: Path) -> list[str]:
    """What lies there besides whole indexes and locks."""
    if not folder.exists():
        return []
    return [path.name for path in folder.iterdir() if path.suffix != ".lock" and path.name != WANTED.name]


def test_an_index_is_built_once_and_found_again(tmp_path: Path) -> None:
    builds = Builds()
    assert ensure_index(WANTED, [tmp_path], SIZE, builds) == ensure_index(WANTED, [tmp_path], SIZE, builds)
    assert builds.count == 1
    assert find_index(WANTED, [tmp_path]) == tmp_path / WANTED.name
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    "change",
    ["training.seed=7", "training.sequence_length=64", "data.split=1,1,1", "training.decay_steps=300"],
)
def test_another_order_has_another_name(change: str) -> None:
    assert wanted_index(load_recipe("grok1-nano", [change]), WANTED.corpus).name != WANTED.name


def test_another_text_has_another_name_and_another_learning_rate_has_not() -> None:
    assert wanted_index(load_recipe("grok1-nano"), "f" * 16).name != WANTED.name
    assert wanted_index(load_recipe("grok1-nano", ["training.learning_rate=0.1"]), WANTED.corpus) == WANTED


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*ARRAYS, "seal.json"])
@pytest.mark.parametrize("damage", [_flip, lambda path: os.truncate(path, 9), Path.unlink], ids=["bit", "cut", "gone"])
def test_a_damaged_file_is_named_and_built_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    builds = Builds()
    place = ensure_index(WANTED, [tmp_path], SIZE, builds)
    if name == "seal.json" and damage is _flip:  # its last byte is an end of line
        (place / name).write_text("{}")
    else:
        damage(place / name)
    assert ensure_index(WANTED, [tmp_path], SIZE, builds) == place
    assert builds.count == 2
    assert f"the sample index is built anew: {place / name}" in capsys.readouterr().err
    assert find_index(WANTED, [tmp_path], reads_all=True) == place


ENDLESS = json.dumps({"files": dict.fromkeys(ARRAYS, {"bytes": float("inf"), "sha256": ""})}).encode()


@pytest.mark.parametrize("seal", [b"", b"[1]", b'{"files": {}}', b"\xff", b"[" * 100_000, b'{"files": null}', ENDLESS])
def test_a_strange_seal_is_damage(tmp_path: Path, seal: bytes) -> None:
    place = ensure_index(WANTED, [tmp_path], SIZE, build)
    (place / "seal.json").write_bytes(seal)
    assert find_index(WANTED, [tmp_path]) is None


def test_a_pipe_in_place_of_a_seal_is_damage(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    place = ensure_index(WANTED, [tmp_path], SIZE, build)
    (place / "seal.json").unlink()
    os.mkfifo(place / "seal.json")
    assert find_index(WANTED, [tmp_path]) is None


@pytest.mark.parametrize(
    "put",
    [Path.touch, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path)],
    ids=["file", "link to nothing", "link to itself"],
)
def test_what_has_an_indexs_name_and_is_none_makes_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], put: Callable[[Path], None]
) -> None:
    put(tmp_path / WANTED.name)
    assert find_index(WANTED, [tmp_path]) is None
    assert ensure_index(WANTED, [tmp_path], SIZE, build) == tmp_path / WANTED.name
    assert f"{WANTED.name} is not a folder" in capsys.readouterr().err


def test_an_index_whose_builder_was_killed_is_no_index(tmp_path: Path) -> None:
    """Killed before the seal: nothing of it has the name."""

    def killed(folder: Path) -> None:
        build(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_index(WANTED, [tmp_path], SIZE, killed)
    assert find_index(WANTED, [tmp_path]) is None
    assert not leftovers(tmp_path)


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    for age, name in ((0, "young"), (200_000, "old")):
        left = tmp_path / f".index-{name}"
        left.mkdir()
        os.utime(left, (left.stat().st_mtime - age,) * 2)
    ensure_index(WANTED, [tmp_path], SIZE, build)
    assert leftovers(tmp_path) == [".index-young"]


def test_a_folder_that_cannot_be_written_gives_way_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").touch()  # no folder can be made there, whoever asks: tests may run as root
    folders = [tmp_path / "cache", tmp_path / "user"]
    assert ensure_index(WANTED, folders, SIZE, build).parent == folders[1]
    told = capsys.readouterr().err
    assert f"kept in {folders[1]}: {folders[0]} cannot be written" in told
    assert "--index-cache" in told
    assert find_index(WANTED, folders) == folders[1] / WANTED.name


def test_an_index_beside_a_corpus_that_is_now_read_only_is_used(tmp_path: Path) -> None:
    folders = [tmp_path / "cache", tmp_path / "user"]
    place = ensure_index(WANTED, folders, SIZE, build)
    builds = Builds()
    assert ensure_index(WANTED, folders, SIZE, builds) == place
    assert not builds.count
    assert not folders[1].exists()


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    for name in ("cache", "user"):
        (tmp_path / name).touch()
    complaint = (
        r"no place for the sample index: .*cache cannot be written .* and .*user .*--index-cache DIR.* 5000 bytes"
    )
    with pytest.raises(ValueError, match=complaint):
        ensure_index(WANTED, [tmp_path / "cache", tmp_path / "user"], SIZE, build)


def _make_read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """As a disk that is mounted so: tests may run as root, whom modes do not stop."""
    remove, make = shutil.rmtree, Path.mkdir

    def refused(path: Path) -> None:
        if folder == path or folder in path.parents:
            raise OSError(errno.EROFS, "Read-only file system")

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        refused(path)
        remove(path, ignore_errors)

    def mkdir(path: Path, *words: Any, **settings: Any) -> None:
        refused(path.parent)
        make(path, *words, **settings)

    patch.setattr(shutil, "rmtree", rmtree)
    patch.setattr(Path, "mkdir", mkdir)


def test_a_damaged_index_that_cannot_be_removed_gives_way_to_the_users_own(tmp_path: Path) -> None:
    """Other ranks look at sizes alone: they must find the same one."""
    folders = [tmp_path / "cache", tmp_path / "user"]
    _flip(ensure_index(WANTED, folders, SIZE, build) / ARRAYS[0])
    with pytest.MonkeyPatch.context() as patch:
        _make_read_only(folders[0], patch)
        assert ensure_index(WANTED, folders, SIZE, build) == folders[1] / WANTED.name
    assert find_index(WANTED, folders) == folders[1] / WANTED.name


def test_a_damaged_index_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    _flip(ensure_index(WANTED, [tmp_path], SIZE, build) / ARRAYS[0])
    with pytest.MonkeyPatch.context() as patch:
        _make_read_only(tmp_path, patch)
        with pytest.raises(ValueError, match=rf"{ARRAYS[0]} is damaged, and .* cannot be removed \(Read-only"):
            ensure_index(WANTED, [tmp_path], SIZE, build)


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    builds = Builds()
    complaint = rf"needs {1 << 60} bytes in {tmp_path}: \d+ are free; free some space, or give --index-cache"
    with pytest.raises(ValueError, match=complaint):
        ensure_index(WANTED, [tmp_path], Size(samples=9, bytes=1 << 60), builds)
    assert not builds.count
    assert not leftovers(tmp_path)


def _full_device(_folder: Path) -> None:
    with open("/dev/full", "wb") as stream:
        np.arange(100_000).tofile(stream)


def _full_quota(_folder: Path) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a device without room")
@pytest.mark.parametrize("fill", [_full_device, _full_quota])
def test_a_disk_that_fills_up_is_named_with_the_bytes_needed(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    def fails(folder: Path) -> None:
        build(folder)
        fill(folder)

    with pytest.raises(ValueError, match=rf"needs 5000 bytes in {tmp_path}: .*free some space"):
        ensure_index(WANTED, [tmp_path, tmp_path / "user"], SIZE, fails)
    assert not leftovers(tmp_path)
    assert not (tmp_path / "user" / WANTED.name).exists()


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("written", [-1, 0])
def test_an_index_that_was_not_written_to_its_end_gets_no_seal(tmp_path: Path, name: str, written: int) -> None:
    """numpy says nothing where the disk has no room for what was left in its buffer."""

    def cut(folder: Path) -> None:
        build(folder)
        os.truncate(folder / name, written % (folder / name).stat().st_size if written else 0)

    with pytest.raises(ValueError, match=rf"needs 5000 bytes in {tmp_path}: a file could not be written to its end"):
        ensure_index(WANTED, [tmp_path], SIZE, cut)
    assert find_index(WANTED, [tmp_path]) is None
    assert not leftovers(tmp_path)


def test_one_that_another_process_made_meanwhile_is_taken(tmp_path: Path) -> None:
    """On a disk without locks."""

    def overtaken(folder: Path) -> None:
        build(folder)
        ensure_index(WANTED, [tmp_path], SIZE, build)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_index, "_LOCK_SECONDS", 0.1)
        assert ensure_index(WANTED, [tmp_path], SIZE, overtaken) == tmp_path / WANTED.name
    assert not leftovers(tmp_path)


def test_the_folder_that_is_given_is_the_only_one(tmp_path: Path) -> None:
    assert index_folders(tmp_path / "data", tmp_path / "mine") == [tmp_path / "mine"]
    assert index_folders(tmp_path / "data", None)[0] == tmp_path / "cache"


def test_an_index_is_never_unpickled(tmp_path: Path) -> None:
    place = ensure_index(WANTED, [tmp_path], SIZE, build)
    (place / ARRAYS[0]).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match="is not a whole sample index"):
        read_index(place)
    assert not (tmp_path / "run").exists()


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    place = ensure_index(WANTED, [tmp_path], SIZE, build)
    np.save(place / ARRAYS[2], np.arange(8, dtype=np.uint32))
    with pytest.raises(ValueError, match="do not fit together"):
        read_index(place)


@given(
    documents=st.integers(1, 10**9),
    tokens=st.integers(2, 10**13),
    steps=st.integers(1, 2**40),
    length=st.integers(2, 2**24),
)
def test_an_index_of_a_schedule_without_end_is_still_small(
    documents: int, tokens: int, steps: int, length: int
) -> None:
    wanted = sample_index.Wanted(corpus="", seed=1, sequence_length=length, split="1,0,0", samples=steps * 2**20)
    size = index_size(wanted, min(documents, tokens), tokens)
    assert 1 <= size.samples <= wanted.samples
    one_epoch = 24 * (min(documents, tokens) + tokens // length)
    least = 24 * (-(-(length + 1) // tokens)) * min(documents, tokens)
    assert size.bytes <= 4 * (one_epoch + least + 24 * 2**26)

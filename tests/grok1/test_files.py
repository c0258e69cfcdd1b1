"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.jsonfile import append_whole, write_atomically
from grok1 import files

OPEN_FILES = Path("/proc/self/fd")  # Linux: the files that this process holds open, as links

Write = Callable[[Path, bytes], None]
WRITERS = pytest.mark.parametrize("write", [files.write_bytes, write_atomically])
APPENDERS = pytest.mark.parametrize("write", [files.write_bytes, write_atomically, append_whole])


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    files.write_bytes(target, b"old")
    files.write_text(target, "n\u00e9w")
    assert target.read_bytes() == "n\u00e9w".encode()
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_umask_allows(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "ours", "text")
        write_atomically(tmp_path / "harness", b"text")
        append_whole(tmp_path / "appended", b"text")
        (tmp_path / "library").touch(mode=0o600)
        files.give_usual_mode(tmp_path / "library")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(("ours", "harness", "appended", "library"), mode)


def test_a_write_that_fails_leaves_the_old_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    files.write_text(target, "old")

    def interrupt(*_unused: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@WRITERS
def test_a_link_stays_and_its_target_is_written(write: Write, tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(Path("elsewhere") / "file")
    for content in (b"first", b"second"):  # of which there was none before
        write(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


@WRITERS
def test_a_circle_of_links_is_refused_and_stays(write: Write, tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).symlink_to(other)
    with pytest.raises(ValueError, match=r"a:? cannot be written: Too many levels of symbolic links$"):
        write(tmp_path / "a", b"content")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_symlink()) == ["a", "b"]


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="this system has no /proc/self/fd")
@APPENDERS
def test_what_is_open_is_written_after_what_was_printed(write: Write, tmp_path: Path) -> None:
    """As /dev/stdout is, where a shell sent it to a file."""
    printed, link = tmp_path / "printed", tmp_path / "stdout"
    with printed.open("wb", buffering=0) as stream:
        link.symlink_to(OPEN_FILES / str(stream.fileno()))
        stream.write(b"before ")
        write(link, b"content ")
        stream.write(b"after")
    assert link.is_symlink()
    assert printed.read_bytes() == b"before content after"
    with pytest.raises((ValueError, OSError), match="Bad file descriptor"):
        write(link, b"content")  # it is closed by now
    assert link.is_symlink()


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, fsync = os.replace, os.fsync

    def noted_fsync(handle: int) -> None:
        order.append("fsync")
        fsync(handle)

    def noted_replace(old: str, new: Path) -> None:
        order.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files.write_text(tmp_path / "file", "text")
    assert order == ["fsync", "replace"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    files.write_json(tmp_path / "file", {"a": (math.nan, 1.5), "b": [{"c": -math.inf}]})
    assert json.loads((tmp_path / "file").read_text()) == {"a": [None, 1.5], "b": [{"c": None}]}


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()  # an empty one is replaced
    with files.whole_folder(target) as folder:
        (folder / "file").write_text("text")
        assert list(target.iterdir()) == []
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "file").read_text() == "text"


def test_nothing_is_left_of_a_folder_whose_block_fails(tmp_path: Path) -> None:
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "left").touch()  # by a process that was killed

    def fail() -> None:
        with files.whole_folder(tmp_path / "folder") as folder:
            assert list(folder.iterdir()) == []
            (folder / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    def meet_content() -> None:
        with files.whole_folder(target):
            target.mkdir()
            (target / "file").touch()

    with pytest.raises(OSError, match="not empty"):
        meet_content()
    assert list(tmp_path.iterdir()) == [target]

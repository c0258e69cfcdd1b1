"""Where shipped files are looked for, in the sources and in an installed package, and where a user's own go."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import places
from bench.judge.baseline import stored_baselines

HOUSE = Path(__file__).resolve().parents[2]


@pytest.fixture
def as_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The shipped baselines, as an installed package has them; the current folder is empty."""
    monkeypatch.setattr(places, "SOURCES", None)
    monkeypatch.chdir(tmp_path)
    return places.shipped("baselines")


def test_what_is_shipped_is_linked_to_where_it_lies(as_installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {name: places.shipped(name).resolve() for name in ("baselines", "constraints", "fixtures")}
    monkeypatch.setattr(places, "SOURCES", HOUSE)
    assert installed == {name: places.shipped(name) for name in installed}


def test_the_current_folders_baselines_come_first(as_installed: Path, tmp_path: Path) -> None:
    assert places.baselines() == as_installed
    assert stored_baselines(places.baselines())
    (tmp_path / "baselines").mkdir()
    assert places.baselines() == Path("baselines")
    assert not stored_baselines(places.baselines())


def test_a_folder_of_the_users_is_written_to_as_it_is(as_installed: Path, tmp_path: Path) -> None:
    assert places.writable_folder(tmp_path / "mine") == tmp_path / "mine"
    assert not (tmp_path / "baselines").exists()


def test_a_folder_that_cannot_be_written_is_refused(as_installed: Path, tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("a file")
    with pytest.raises(ValueError, match="baselines: the shipped baselines cannot be copied there"):
        places.writable_folder(as_installed)


def test_the_shipped_baselines_are_copied_once(as_installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process stored in its copy meanwhile stays."""
    assert places.writable_folder(as_installed / "npu-910b") == Path("baselines/npu-910b")
    (kept,) = Path("baselines/npu-910b").glob("grok1-60b.json")
    kept.write_text("stored since")
    answers = iter([False])  # as at the time when the other began
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_dir", lambda _: next(answers, True))
        places.writable_folder(as_installed)
    assert kept.read_text() == "stored since"
    assert not list(Path().glob(".baselines.*"))

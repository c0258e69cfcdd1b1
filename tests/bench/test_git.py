"""Why git cannot tell a revision: the true cause, and what to do about it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import git
from bench.places import ROOT

WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *WHO, "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits."""
    folder = tmp_path / "it is ours"
    (folder / "bench").mkdir(parents=True)
    _git(folder, "init", "-q")
    for text in ("one", "two"):
        (folder / git._OURS).write_text(text, encoding="utf-8")
        _git(folder, "add", ".")
        _git(folder, "commit", "-q", "-m", text)
    return folder


def _complaint(folder: Path, revision: str = "HEAD") -> str:
    with pytest.raises(ValueError, match=".") as raised:
        git.commit_of(revision, folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def _belong_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose checkout another user made; git's own tests set this."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def test_a_checkout_of_another_user_is_named_with_the_remedy(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _belong_to_another(monkeypatch)
    said = _complaint(repository)
    assert "belongs to another user" in said
    assert f"git config --global --add safe.directory '{repository}'" in said


def test_its_commit_is_recorded_all_the_same(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "ROOT", repository)
    _belong_to_another(monkeypatch)
    found = git.commit()
    assert len(found["sha"]) == 40
    assert found["dirty"] is False


def test_the_commit_of_a_repository_around_a_copy_is_not_ours(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = repository / "vendor" / "copied"
    copy.mkdir(parents=True)
    monkeypatch.setattr(git, "ROOT", copy)
    assert git.commit() == {"sha": None, "dirty": None}


def test_a_shallow_clone_lacks_older_commits(repository: Path, tmp_path: Path) -> None:
    _git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    said = _complaint(tmp_path / "shallow", "HEAD~1")
    assert "a shallow clone that lacks older commits" in said
    assert "git fetch --unshallow" in said
    assert "a shallow clone" not in _complaint(repository, "HEAD~2")


def test_a_worktree_whose_repository_has_gone_is_not_called_no_repository(repository: Path, tmp_path: Path) -> None:
    _git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    repository.rename(tmp_path / "moved")
    said = _complaint(tmp_path / "tree")
    assert said.startswith(f"git cannot read the repository of {tmp_path / 'tree'}")
    assert "clone the project again" in said


def test_no_git_is_said_to_be_that(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "git is not installed" in _complaint(repository)


def test_an_installed_package_has_no_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the repository around its environment either."""
    monkeypatch.setattr(git, "SOURCES", None)
    assert "holds an installed package, which has no revisions to compare" in _complaint(ROOT)

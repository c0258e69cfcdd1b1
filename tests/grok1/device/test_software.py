"""Which software runs: what modules say themselves, and the commit of a checkout, however git behaves."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy
import pytest
import torch

from grok1.device import software


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    command = ["git", *settings, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package in a git checkout, as MindSpeed is run."""
    package = tmp_path / "checkout" / "mindspeed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    return package


def imported(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path, version: str | None = None) -> None:
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    if version:
        module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, name, module)


def test_the_version_is_the_running_modules_not_the_installed_wheels(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(monkeypatch, "megatron.core", checkout, "0.12.99")
    assert metadata.version("megatron-core") != "0.12.99"
    found = software.versions()
    assert found["megatron_core"] == "0.12.99"
    assert (found["torch"], found["numpy"]) == (torch.__version__, numpy.__version__)
    assert software.commits()["megatron_core_commit"] == git(checkout, "rev-parse", "HEAD")


def test_an_installed_package_is_not_taken_for_the_copy_that_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    information = tmp_path / "site" / "mindspeed-0.9.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mindspeed\nVersion: 0.9\n")
    monkeypatch.syspath_prepend(str(information.parent))
    imported(monkeypatch, "mindspeed", checkout)
    assert software.versions()["mindspeed"] == "0.9"  # as `pip install -e` leaves it
    (information.parent / "mindspeed").mkdir()
    assert "mindspeed" not in software.versions()
    assert software.commits()["mindspeed_commit"] == git(checkout, "rev-parse", "HEAD")


def test_a_changed_checkout_is_dirty_and_what_was_built_in_it_is_not(checkout: Path) -> None:
    sha = git(checkout, "rev-parse", "HEAD")
    (checkout / "helpers.so").write_text("")
    assert software.commit_of(checkout) == sha
    (checkout / "__init__.py").write_text("changed = True\n")
    assert software.commit_of(checkout) == f"{sha}-dirty"


def test_a_virtual_environment_in_somebodys_checkout_is_of_no_commit(checkout: Path, tmp_path: Path) -> None:
    installed = checkout.parent / "venv" / "megatron"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert software.commit_of(installed) is None
    assert software.commit_of(Path(numpy.__path__[0])) is None
    assert software.commit_of(tmp_path) is None


@pytest.mark.parametrize("script", ["exit 128", "exec sleep 60", None], ids=["refuses", "hangs", "absent"])
def test_a_git_that_cannot_tell_leaves_the_commit_unknown(
    script: str | None, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "_GIT_SECONDS", 0.3)
    programs = tmp_path / "programs"
    programs.mkdir()
    if script:
        (programs / "git").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert software.commit_of(checkout) == "unknown"


def test_any_change_of_a_packages_sources_changes_their_digest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(monkeypatch, "mindspeed", checkout)
    seen = [software.sources(["mindspeed", "no_such_package"])]
    (checkout / "new.py").write_text("")  # which git does not know
    seen.append(software.sources(["mindspeed"]))
    (checkout / "new.py").write_text("changed = True\n")
    seen.append(software.sources(["mindspeed"]))
    (checkout / "new.py").rename(checkout / "other.py")
    seen.append(software.sources(["mindspeed"]))
    assert {tuple(each) for each in seen} == {("mindspeed",)}
    assert len({each["mindspeed"] for each in seen}) == 4


def test_sources_that_were_edited_meanwhile_are_named() -> None:
    before = {"grok1": "a" * 64, "megatron.core": "b" * 64}
    assert software.edited(before, {**before, "mindspeed": "c" * 64}) == []
    (told,) = software.edited(before, {**before, "grok1": "d" * 64})
    assert told.startswith("the sources of grok1 were edited while it ran; ")


def test_nodes_that_differ_are_named() -> None:
    alike = {"mindspeed": "a" * 64, "torch": "2.7.1"}
    assert software.node_differences({0: alike, 1: dict(alike)}) == []
    assert software.node_differences({0: alike, 1: {"mindspeed": "b" * 64}}) == [
        "node 1 runs another mindspeed than node 0: bbbbbbbbbbbb, not aaaaaaaaaaaa; install the same on all nodes",
        "node 1 runs another torch than node 0: none, not 2.7.1; install the same on all nodes",
    ]

"""TensorBoard and W&B: what they are told, and one line where they are missing. Stand-ins take their place."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grok1.cli.trackers import trackers
from grok1.config.load import load_recipe

NANO = load_recipe("grok1-nano")


def _hide(name: str, patch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))


@pytest.mark.parametrize(("package", "asked"), [("tensorboard", (Path("tb"), None)), ("wandb", (None, "project"))])
def test_a_missing_package_is_one_line_that_names_it(
    package: str, asked: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide(package, monkeypatch)
    with (
        pytest.raises(ValueError, match=f"^--{package} needs the package {package}: pip install {package}, or leave"),
        trackers(*asked, NANO),
    ):
        pass


class Writer:
    """As torch.utils.tensorboard.SummaryWriter is used; keeps what it is told in a file."""

    def __init__(self, folder: str) -> None:
        self._file, self._told = Path(folder) / "told.json", list[tuple[str, float, int]]()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._told.append((name, value, step))

    def close(self) -> None:
        self._file.write_text(json.dumps(self._told))


def test_tensorboard_gets_each_number_of_each_step_even_of_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: find("json" if asked == "tensorboard" else asked))
    module = ModuleType("torch.utils.tensorboard")
    vars(module)["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)

    def fail() -> None:
        with trackers(tmp_path / "new" / "tb", None, NANO) as [tracker]:
            assert tracker.where == f"TensorBoard {tmp_path / 'new' / 'tb'}"
            tracker.log(1, {"loss": 2.5, "lr": 0.1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads((tmp_path / "new" / "tb" / "told.json").read_text()) == [["loss", 2.5, 1], ["lr", 0.1, 1]]


def test_a_folder_that_cannot_be_written_is_refused_before_a_rank_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: object())
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="file/tb cannot be written: Not a directory"),
        trackers(tmp_path / "file" / "tb", None, NANO),
    ):
        pass


@pytest.mark.slow
def test_wandb_keeps_a_run_here_where_it_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with trackers(None, "grok1", NANO) as [tracker]:
        tracker.log(1, {"loss": 2.5})
        folder = Path(tracker.where.removeprefix("W&B "))
    assert folder.is_dir()
    assert list(folder.glob("run-*.wandb"))
    wandb.teardown()  # its service, a process that it would leave for the end of this one

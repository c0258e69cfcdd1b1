"""Which frames of a stack are this project's, in a clone and among installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok1.distributed import stacks
from grok1.distributed.stacks import Frame


@pytest.mark.parametrize("folder", ["clone", "lib/python3.11/site-packages"])
def test_our_frames_are_told_from_installed_ones(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = tmp_path / folder
    monkeypatch.setattr(stacks, "_HOUSE", house)
    ours = Frame(str(house / "grok1" / "model" / "moe.py"), 7, "forward")
    assert ours.is_ours
    assert str(ours) == "grok1/model/moe.py:7 forward"
    for theirs in ("torch/nn/module.py", ".venv/lib/site-packages/torch/nn/module.py"):
        assert not Frame(str(house / theirs), 7, "forward").is_ours
    assert not Frame(str(tmp_path / "grok1" / "model" / "moe.py"), 7, "forward").is_ours

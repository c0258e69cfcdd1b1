"""The command line of bench, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__
from tests.in_process import Command, command_of


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs `python -m bench ...` in an empty folder that has baselines/: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "baselines").mkdir()
    return command_of("bench", __main__.main, monkeypatch, capsys)

"""`--help` of every command reads the same on every machine."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bench.commands.app import app
from bench.places import ROOT

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_path_of_this_machine(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"})
    assert shown.exit_code == 0
    assert str(ROOT) not in shown.output

"""Every command alike: help that nothing cuts, --version, --json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from bench.commands.app import app as bench
from grok1.cli.json_option import Json
from grok1.commands.app import app as grok1
from reports.__main__ import app as reports

PROGRAMS = {"grok1": grok1, "bench": bench, "reports": reports}


COMMANDS = {program: get_command(app) for program, app in PROGRAMS.items()}


def commands() -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(program, words that name a command of it, the command)."""
    for program in PROGRAMS:
        pending: list[tuple[tuple[str, ...], Any]] = [((), COMMANDS[program])]
        while pending:
            words, command = pending.pop()
            inner = getattr(command, "commands", {})
            pending += [((*words, name), each) for name, each in inner.items()]
            yield program, words, command


ALL = list(commands())
NAMES = [" ".join((program, *words)) for program, words, _ in ALL]
EVERY = pytest.mark.parametrize(("program", "words", "command"), ALL, ids=NAMES)


Shown = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """shown(program, words..., width="80"): what it prints, on a terminal of that width, and exits with 0.

    Not by typer's runner, in which every terminal is 80 wide, and which makes all commands anew for each call.
    """

    def output(program: str, *words: str, width: str = "80") -> str:
        monkeypatch.setenv("COLUMNS", width)
        assert not COMMANDS[program](words, prog_name=program, standalone_mode=False)
        return capsys.readouterr().out

    return output


@EVERY
@pytest.mark.parametrize("width", ["40", "80"])
def test_help_names_every_option_and_is_as_wide_as_the_terminal(
    program: str, words: tuple[str, ...], command: Any, width: str, shown: Shown
) -> None:
    told = shown(program, *words, "-h", width=width)
    assert told == shown(program, *words, "--help", width=width)
    options = [each for each in command.params if isinstance(each, typer.core.TyperOption) and not each.hidden]
    missing = [each.opts for each in options if not all(name in told for name in each.opts)]
    assert not missing
    assert "…" not in told
    # never broken below 50, and what is one word is not broken at all
    assert max(map(len, told.splitlines())) < max(int(width), 60)


@EVERY
def test_the_usage_line_has_every_option_that_must_be_given(
    program: str, words: tuple[str, ...], command: Any, shown: Shown
) -> None:
    usage = " ".join(shown(program, *words, "--help").partition("\n\n")[0].split())
    required = [each for each in command.params if isinstance(each, typer.core.TyperOption) and each.required]
    assert all(f"{max(each.opts, key=len)} {each.metavar}" in usage for each in required), usage


@EVERY
def test_json_is_the_same_option_everywhere(program: str, words: tuple[str, ...], command: Any) -> None:
    like = get_args(Json)[1]
    found = [each for each in command.params if "--json" in each.opts]
    has_one = not hasattr(command, "commands") and program != "reports"  # a report.json lies beside each report
    assert len(found) == has_one
    for each in found:
        assert (each.name, each.metavar, each.help) == ("json_path", like.metavar, like.help)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_version_is_one_line(program: str) -> None:
    shown = CliRunner().invoke(PROGRAMS[program], ["--version"])
    assert shown.exit_code == 0
    assert shown.output.count("\n") == 1
    assert all(name in shown.output for name in ("grok1-bench ", "torch ", "megatron-core ", "Python "))


def test_json_alone_goes_to_standard_output_and_text_to_stderr() -> None:
    shown = CliRunner().invoke(grok1, ["recipes", "--json", "-"])
    assert "grok1-314b" in [each["name"] for each in json.loads(shown.stdout)]
    assert "B parameters" in shown.stderr


def test_json_in_a_file_leaves_the_text_where_it_was(tmp_path: Path) -> None:
    shown = CliRunner().invoke(grok1, ["recipes", "grok1-nano", "--json", str(tmp_path / "new" / "one.json")])
    assert json.loads(shown.stdout) == json.loads((tmp_path / "new" / "one.json").read_text())


def test_baselines_are_listed_as_json() -> None:
    shown = CliRunner().invoke(bench, ["baseline", "list", "--json", "-"])
    listed = json.loads(shown.stdout)["baselines"]
    assert listed
    assert all(each["label"] in shown.stderr for each in listed)

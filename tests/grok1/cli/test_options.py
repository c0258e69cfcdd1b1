"""Groups of options become options, and what a command does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from grok1.cli.console import App
from grok1.cli.options import Grouped


@dataclass(frozen=True)
class First:
    must: Annotated[str, typer.Option(metavar="WORD", rich_help_panel="The first")]
    many: Annotated[list[str] | None, typer.Option(rich_help_panel="The first")] = None


@dataclass(frozen=True)
class Second:
    count: Annotated[int, typer.Option("--times", help="How often.", min=1)] = 3


@Grouped
def command(first: First, second: Second) -> None:
    """Say what it got."""
    print(first, second)


def _app() -> App:
    app = App()
    app.command()(command)
    return app


def test_each_field_is_an_option_with_its_default() -> None:
    done = CliRunner().invoke(_app(), ["--must", "a", "--many", "b", "--many", "c"])
    assert done.output == f"{First('a', ['b', 'c'])} {Second(3)}\n"


def test_help_has_the_groups_and_the_option_that_must_be_given() -> None:
    shown = CliRunner().invoke(_app(), ["-h"], env={"COLUMNS": "80"}).output
    assert "--must WORD [OPTIONS]" in shown.splitlines()[0]
    assert "Say what it got." in shown
    assert shown.index("\nThe first:\n") < shown.index("--many") < shown.index("\nOptions:\n") < shown.index("--times")


def test_a_bad_value_of_a_field_is_refused() -> None:
    done = CliRunner().invoke(_app(), ["--must", "a", "--times", "0"])
    assert done.exit_code == 2
    assert "--times" in done.output

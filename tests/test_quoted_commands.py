"""Commands that messages quote can be typed as they stand, but for the words in capitals."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from bench.commands.app import app as bench
from grok1.commands.app import app as grok1
from reports.__main__ import app as reports

HOUSE = Path(__file__).resolve().parents[1]
PROGRAMS: dict[str, typer.Typer] = {"grok1": grok1, "python -m bench": bench, "python -m reports": reports}
# up to a backtick, a bracket, or what ends a clause
COMMAND = re.compile(r"\b((?:grok1|python -m bench|python -m reports|pytest bench/) [^`();\n]*)")
ANYTHING = "7"  # a word, a path and a number
COMMANDS = {name for app in PROGRAMS.values() for name in getattr(get_command(app), "commands", {})}


def messages() -> Iterator[tuple[str, str]]:
    """(where, text) of every string that is not a docstring of ours alone, with 7 for what is filled in."""
    for room in ("grok1", "bench", "reports"):
        for path in sorted((HOUSE / room).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if not any(words in source for words in ("grok1 ", "python -m ", "pytest bench/")):
                continue  # no string has a command
            for node in _strings(ast.parse(source)):
                yield f"{path.relative_to(HOUSE)}:{node.lineno}", _text(node)


def _strings(tree: ast.Module) -> Iterator[ast.JoinedStr | ast.Constant]:
    """In no order; an f-string as one, without the strings inside it."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield node
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                left.remove(first)


def _text(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(each.value) if isinstance(each, ast.Constant) else ANYTHING for each in node.values)


@functools.cache
def quoted() -> list[tuple[str, str]]:
    """(where, command) of every one; prose that begins like one, as in "grok1 is", is none."""
    found = []
    for where, text in messages():
        for match in COMMAND.finditer(text):
            command = match[1].rstrip(" .,:")
            is_in_backticks = text[: match.start()].endswith("`")
            names_one = is_in_backticks or command.startswith("pytest ") or {*command.split()} & COMMANDS
            if names_one and command not in PROGRAMS:
                found.append((where, command))
    return found


def complaint(command: str) -> str:
    """What the program says of the command's words; empty where it takes them."""
    words = [ANYTHING if word.isupper() and "=" not in word else word for word in shlex.split(command)]
    name = next((name for name in PROGRAMS if command.startswith(f"{name} ")), "")
    program: Any = get_command(PROGRAMS[name])
    words = words[len(name.split()) :]
    while hasattr(program, "commands"):
        if not words or words[0] not in program.commands:
            return f"no command {words[:1]}"
        program = program.commands[words.pop(0)]
    try:
        program.make_context(name, words)
    except Exception as error:
        return getattr(error, "message", "") or str(error) or type(error).__name__
    return ""


QUOTED = [(where, command) for where, command in quoted() if not command.startswith("pytest ")]


@pytest.mark.parametrize(("where", "command"), QUOTED, ids=[where for where, _ in QUOTED])
def test_a_quoted_command_is_complete(where: str, command: str) -> None:
    assert complaint(command) == "", command


def test_options_of_pytest_that_are_quoted_exist(request: pytest.FixtureRequest) -> None:
    known = {name for group in request.config._parser._groups for option in group.options for name in option.names()}
    words = [word for _, command in quoted() if command.startswith("pytest ") for word in command.split()[1:]]
    assert {word for word in words if word.startswith("--")} <= known | {"--benchmark"}
    assert "--runs" in words


@pytest.mark.parametrize(
    "command",
    [
        "python -m bench baseline promote FILE",
        "python -m bench history check --plot",
        "grok1 convert",
        "grok1 verify --device cpu",
        "python -m bench nothing",
    ],
)
def test_an_incomplete_command_is_noticed(command: str) -> None:
    assert complaint(command)

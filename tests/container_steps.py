"""The steps of the Containerfile, as a shell script: `python -m tests.container_steps | bash`.

It does on this machine what an engine does in a container: installs the system's packages (so it needs root and apt),
makes .venv in the current folder and runs the benchmark. With --devcontainer the steps are those of an editor, which
end with .venv.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HOUSE = Path(__file__).resolve().parents[1]
_KNOWN = ("FROM", "RUN", "WORKDIR", "COPY", "CMD")


class Instruction(NamedTuple):
    """One line of a Containerfile, continuation lines joined."""

    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """What a Containerfile says, in order.

    Raises:
        ValueError: an instruction that this script could not do on a machine.
    """
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    found = [Instruction(*line.strip().partition(" ")[::2]) for line in lines if line.strip()]
    unknown = [each.word for each in found if each.word not in _KNOWN]
    if unknown:
        raise ValueError(f"{unknown[0]}: no step of a script; leave it out of the Containerfile")
    return found


def steps(text: str) -> list[str]:
    """The commands that building an image runs, and then the one that the container starts with."""
    found = instructions(text)
    start = [shlex.join(json.loads(each.rest)) for each in found if each.word == "CMD"]
    return [each.rest for each in found if each.word == "RUN"] + start[-1:]


def devcontainer() -> Any:
    """What an editor reads."""
    return json.loads((HOUSE / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def editor_steps(text: str, told: Any) -> list[str]:
    """The commands that building the devcontainer's stage runs, and then the one that the editor runs in the clone."""
    stages: dict[str, list[str]] = {}
    for each in instructions(text):
        if each.word == "FROM":
            base, _, name = each.rest.partition(" AS ")
            stage = stages[name] = list(stages.get(base, []))
        elif each.word == "RUN":
            stage.append(each.rest)
    return [*stages[told["build"]["target"]], told["postCreateCommand"]]


def script(commands: Sequence[str]) -> str:
    """All steps, one a line, each shown before it is done; the first that fails ends it."""
    return "\n".join(["set -eux", *commands]) + "\n"


if __name__ == "__main__":
    content = (HOUSE / "Containerfile").read_text(encoding="utf-8")
    chosen = editor_steps(content, devcontainer()) if "--devcontainer" in sys.argv[1:] else steps(content)
    print(script(chosen), end="")

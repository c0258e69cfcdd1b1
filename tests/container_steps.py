"""The steps of the Containerfile and of the devcontainer, as a shell script: `python -m tests.container_steps | bash`.

It does on this machine what an engine does in a container: installs the system's packages (so it needs root and apt),
makes .venv in the current folder and runs the benchmark.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

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


def script(text: str) -> str:
    """All steps, one a line, each shown before it is done; the first that fails ends it."""
    return "\n".join(["set -eux", *steps(text)]) + "\n"


if __name__ == "__main__":
    print(script((HOUSE / "Containerfile").read_text(encoding="utf-8")), end="")

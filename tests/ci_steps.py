"""Runs the steps of our GitHub action and our GitLab job as those services would, but for the services themselves."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[1]
ACTION = ".github/actions/performance/action.yml"
TEMPLATE = ".gitlab/performance.yml"
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")

Done = subprocess.CompletedProcess[str]


def action(text: str | None = None) -> Any:
    """The action's metadata."""
    return yaml.safe_load((HOUSE / ACTION).read_text(encoding="utf-8") if text is None else text)


def job() -> Any:
    """GitLab's hidden job."""
    return yaml.safe_load((HOUSE / TEMPLATE).read_text(encoding="utf-8"))[".performance"]


def on_github(
    checkout: Path, given: Mapping[str, str], contexts: Mapping[str, str], metadata: Any = None
) -> list[tuple[str, Done]]:
    """Each script of the action that its conditions let run, by name: after a failure only those that ask for it.

    Expressions are replaced in a step's variables, and in its script too if there are any.
    """
    told = action() if metadata is None else metadata
    values = dict(contexts)
    for name, each in told["inputs"].items():
        values[f"inputs.{name}"] = given.get(name, _filled(each.get("default", ""), contexts))
    done: list[tuple[str, Done]] = []
    for step in told["runs"]["steps"]:
        has_failed = any(each.returncode for _, each in done)
        if "run" in step and (not has_failed or "!cancelled()" in step.get("if", "")):
            variables = {name: _filled(value, values) for name, value in step["env"].items()}
            variables |= {
                "GITHUB_ACTION_PATH": str((checkout / ACTION).parent),
                "GITHUB_OUTPUT": str(checkout / "outputs"),
            }
            done.append((step["name"], bash(_filled(step["run"], values), checkout, variables)))
    return done


def on_gitlab(checkout: Path, variables: Mapping[str, str]) -> tuple[Done, Done]:
    """What the job's scripts did, and those that run after them."""
    told = job()
    given = {name: str(value) for name, value in told["variables"].items()} | dict(variables)
    script = "\n".join(["set -eo pipefail", *told["before_script"], *told["script"]])
    return bash(script, checkout, given), bash("\n".join(told["after_script"]), checkout, given)


def _filled(words: str, values: Mapping[str, str]) -> str:
    return EXPRESSION.sub(lambda found: values.get(found[1], ""), words)


def bash(script: str, folder: Path, variables: Mapping[str, str]) -> Done:
    """As both services start it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )

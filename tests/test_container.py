"""The Containerfile and the devcontainer do what the README says, read as a script: no container engine is needed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.container_steps import HOUSE, devcontainer, editor_steps, instructions, script, steps
from tests.limits import HANG_SECONDS
from tests.test_dependencies import project

TEXT = (HOUSE / "Containerfile").read_text(encoding="utf-8")
README = (HOUSE / "README.md").read_text(encoding="utf-8")
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> log
"""
PACKAGES = ["apt-get update", "apt-get install --yes --no-install-recommends g++ gcc git make"]


def make_steps(text: str) -> list[str]:
    """All steps but those that install the system's packages."""
    return [each for each in steps(text) if not each.startswith("apt-get ")]


def test_the_steps_are_the_makefiles_and_the_last_is_the_readmes() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (HOUSE / "Makefile").read_text(encoding="utf-8"), re.M)
    found = make_steps(TEXT)
    assert found == ["make venv", "make bench"]
    assert {each.removeprefix("make ") for each in found} <= {*targets}
    assert re.search(r"^make bench ", README, re.M)


def test_the_image_has_a_python_that_the_project_supports() -> None:
    (image, *_) = [each.rest for each in instructions(TEXT) if each.word == "FROM"]
    version = re.match(r"python:(3\.\d+)-slim AS tools$", image)
    assert version is not None, image
    assert SpecifierSet(project()["requires-python"]).contains(version[1])


def test_the_devcontainer_is_the_stage_that_has_the_tools() -> None:
    build = devcontainer()["build"]
    assert (HOUSE / ".devcontainer" / build["dockerfile"]).resolve() == HOUSE / "Containerfile"
    assert (HOUSE / ".devcontainer" / build["context"]).resolve() == HOUSE
    assert [each.rest for each in instructions(TEXT) if each.word == "FROM"][-1] == build["target"] == "tools"


def test_the_script_runs_each_step_once_and_in_order(tmp_path: Path) -> None:
    """With stand-ins for the two programs that the steps call."""
    done = _run(tmp_path, steps(TEXT))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().splitlines() == [*PACKAGES, "make venv", "make bench"]


def test_an_editor_runs_the_tools_steps_and_then_makes_the_environment(tmp_path: Path) -> None:
    done = _run(tmp_path, editor_steps(TEXT, devcontainer()))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().splitlines() == [*PACKAGES, "make venv"]


def test_a_stage_has_the_steps_of_the_one_it_is_built_on() -> None:
    text = "FROM a AS b\nRUN one\nFROM b AS c\nRUN two\nFROM a AS d\nRUN three\n"
    for target, built in (("b", ["one"]), ("c", ["one", "two"]), ("d", ["three"])):
        assert editor_steps(text, {"build": {"target": target}, "postCreateCommand": "own"}) == [*built, "own"]


def test_a_step_that_fails_ends_the_script(tmp_path: Path) -> None:
    assert _run(tmp_path, steps(TEXT.replace("RUN make venv", "RUN \\\n  false \\\n  here"))).returncode == 1
    assert "make bench" not in (tmp_path / "log").read_text()


def test_an_instruction_that_is_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="SHELL: no step of a script"):
        steps('FROM python\nSHELL ["bash"]\n')


def _run(folder: Path, commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    for name in ("apt-get", "make"):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(TOOL)
        (folder / "bin" / name).chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash"],
        input=script(commands),
        cwd=folder,
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )

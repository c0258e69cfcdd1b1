"""What CI runs, with stand-ins for make and for the system's packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.ci_steps import HOUSE, Done, bash

PACKAGES = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "iproute2": ("ip",)}
BROWSER, MACHINES = (f"apt-get -qq install --yes --no-install-recommends {name}" for name in PACKAGES)
INDEX = "apt-get -qq update"


def run(folder: Path, *there: str, user: int = 0, code: int = 0) -> tuple[list[str], Done]:
    """What was started, in order, where these programs are there; `code` is apt-get's."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    noted = '#!/bin/bash\necho "${0##*/}" "$@" >>words\n'
    scripts = {"make": noted, "apt-get": f"{noted}exit {code}\n", "id": f"#!/bin/bash\necho {user}\n"}
    for name, script in {**scripts, **dict.fromkeys(there, noted)}.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(HOUSE / ".ci" / "run", folder / ".ci")
    done = bash(".ci/run", folder, {"PATH": str(programs)})
    assert done.returncode == 0, done.stderr
    return [line.partition(" TEST_ARGS")[0] for line in (folder / "words").read_text().splitlines()], done


def test_what_tests_need_is_there_before_they_run(tmp_path: Path) -> None:
    started, done = run(tmp_path)
    assert started == ["make check", INDEX, BROWSER, "make test-all", INDEX, MACHINES, "make test-nodes"]
    assert done.stderr == ""


def test_what_cannot_be_installed_is_said_and_the_tests_run(tmp_path: Path) -> None:
    started, done = run(tmp_path, code=100)
    assert started == ["make check", INDEX, "make test-all", INDEX, "make test-nodes"]
    assert done.stderr.splitlines() == [
        "chromium could not be installed: the tests of pages in a browser are skipped",
        "iproute2 could not be installed: the tests of two machines are skipped",
    ]


@pytest.mark.parametrize("browser", PACKAGES["chromium"])
def test_what_is_there_is_not_installed(tmp_path: Path, browser: str) -> None:
    assert run(tmp_path, browser, "ip")[0] == ["make check", "make test-all", "make test-nodes"]


def test_only_root_installs(tmp_path: Path) -> None:
    assert run(tmp_path, user=1000)[0] == ["make check", "make test-all", "make test-nodes"]

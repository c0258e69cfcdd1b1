"""The Makefile: what `make bench` hands to pytest, seen by a stand-in for the interpreter; what its recipes name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
printf '<%s>' "$@"; echo
while [ "${1%%=*}" != --results ]; do shift; done
folder=${1#--results=}
[ "$folder" = --results ] && folder=$2
mkdir -p "$folder"; sleep 0.01; touch "$folder/report.md"
"""


def _make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("given", "words", "folder"),
    [
        ([], "<--results><results>", "results"),
        (["RESULTS=there"], "<--results><there>", "there"),
        (["BENCH_ARGS=--results here --case a"], "<--results><here><--case><a>", "here"),
        (["BENCH_ARGS=--results=here", "RESULTS=there"], "<--results=here>", "here"),
        (["BENCH_ARGS=--set 'a=b c'"], "<--results><results><--set><a=b c>", "results"),
    ],
)
def test_the_results_folder_is_given_once_and_its_report_found(
    tmp_path: Path, given: list[str], words: str, folder: str
) -> None:
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints/dev.txt",
        "constraints/hashes.txt",
        ".venv/bin/python",
        ".venv/.ready",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((HOUSE / name).read_text() if not name.startswith(".venv") else PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    done = _make(tmp_path, "bench", *given)
    assert done.stdout == f"<-m><pytest><bench/><--benchmark>{words}\nreport: {folder}/report.md\n", done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_every_recipe_names_variables_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (HOUSE / "Makefile").read_text(), re.M)
    assert "mutants" in targets
    for target in targets:
        words = ["--dry-run", "--always-make", "--warn-undefined-variables", f"PYTHON={sys.executable}"]
        done = _make(HOUSE, target, *words)
        assert done.returncode == 0, done.stderr
        assert "undefined" not in done.stderr, target

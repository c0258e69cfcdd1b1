"""megatron's compiled dataset helpers: built where a checkout lacks them, once, whole, or refused in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grok1.megatron.dataset_helpers import build_dataset_helpers
from tests.grok1.conftest import ROOT, run_grok1
from tests.limits import HANG_SECONDS

# as small as megatron's is not, but it wants the same headers
SOURCE = """
#if !__has_include(<pybind11/pybind11.h>)
#error no pybind11
#endif
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "helpers_cpp", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit_helpers_cpp() { return PyModule_Create(&module); }
"""
SLOW_COMPILER = """#!/bin/sh
PATH=/usr/bin:/bin
echo compiled >> "$(dirname "$0")/log"
for last; do :; done
echo half > "$last"
sleep 0.5
echo whole > "$last"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """megatron/core/datasets of a checkout."""
    datasets = tmp_path / "checkout" / "megatron" / "core" / "datasets"
    datasets.mkdir(parents=True)
    (datasets.parent / "__init__.py").write_text("")
    (datasets / "helpers.cpp").write_text(SOURCE)
    return datasets


def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> Path:
    """A folder that is all of PATH, with this g++ in it or none."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if script is not None:
        (programs / "g++").write_text(script)
        (programs / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return programs


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")
def test_what_is_built_can_be_imported(folder: Path) -> None:
    build_dataset_helpers(folder)
    done = subprocess.run(
        [sys.executable, "-c", "import helpers_cpp"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_four_ranks_build_once_and_wait(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = compiler(tmp_path, monkeypatch, SLOW_COMPILER)
    script = f"""
from pathlib import Path
from grok1.megatron.dataset_helpers import build_dataset_helpers
build_dataset_helpers(Path({str(folder)!r}))
(built,) = Path({str(folder)!r}).glob("helpers_cpp*")
print(built.read_text().strip())
"""
    ranks = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = [rank.communicate(timeout=HANG_SECONDS)[0].strip() for rank in ranks]
    assert said == ["whole"] * 4
    assert (programs / "log").read_text().split() == ["compiled"]
    assert sorted(path.suffix for path in folder.iterdir()) == [".cpp", ".so"]
    build_dataset_helpers(folder)
    assert (programs / "log").read_text().split() == ["compiled"]


def test_without_a_compiler_the_line_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, None)
    with pytest.raises(
        ValueError, match=r"^megatron's compiled dataset helpers are missing in .*; install g\+\+, or copy"
    ):
        build_dataset_helpers(folder)


def test_a_folder_that_cannot_be_written_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = compiler(tmp_path, monkeypatch, SLOW_COMPILER)
    may = os.access
    # the superuser may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode, **how: mode != os.W_OK and may(path, mode, **how))
    with pytest.raises(ValueError, match="which cannot be written; build them once as its owner"):
        build_dataset_helpers(folder)
    assert not (programs / "log").exists()


def test_a_build_that_fails_says_the_error_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = SLOW_COMPILER.replace("sleep 0.5", "echo 'note\nPython.h: fatal error: no such file\nended.' >&2; exit 1")
    compiler(tmp_path, monkeypatch, failing)
    with pytest.raises(ValueError, match=r": Python\.h: fatal error: no such file; check g\+\+ and Python's headers"):
        build_dataset_helpers(folder)
    assert [path.name for path in folder.iterdir()] == ["helpers.cpp"]


def test_a_job_is_refused_before_it_starts(folder: Path) -> None:
    checkout = folder.parents[2]
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    done = run_grok1("train", "--recipe", "grok1-nano", "--steps", "1", PYTHONPATH=path, PATH="")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"grok1: megatron's compiled dataset helpers are missing in {folder}, and there is no"
    )
    assert len(done.stderr.splitlines()) == 1


def test_megatron_as_it_is_installed_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, None)
    build_dataset_helpers()

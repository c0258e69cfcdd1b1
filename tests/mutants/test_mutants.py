"""The run of mutants: its plan is of this tree, a fault is caught or told, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.limits import HANG_SECONDS
from tests.mutants.generated import _meaning
from tests.mutants.known import KNOWN, why_known
from tests.mutants.mutant import Mutant
from tests.mutants.plan import MODULES
from tests.mutants.planted import planted
from tests.mutants.trying import Copy, copies, seconds_without_fault, try_all

HOUSE = Path(__file__).resolve().parents[2]
SUM = "def total(values):\n    found = 0\n    for value in values:\n        found += value\n    return found\n"
TESTS = ("tests/test_total.py",)


def toy(mutated: str) -> Mutant:
    return Mutant("total.py", SUM, SUM.replace("found += value", mutated), TESTS)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """A copy of a tree that holds one function and its test."""
    root = tmp_path / "tree"
    (root / "tests" / "mutants").mkdir(parents=True)
    shutil.copy(HOUSE / "tests" / "mutants" / "zygote.py", root / "tests" / "mutants")
    (root / "total.py").write_text(SUM)
    (root / TESTS[0]).write_text("from total import total\n\ndef test_total():\n    assert total([1, 2]) == 3\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    with copies(root, tmp_path / "copies", 1, loaded=()) as [made]:
        yield made


def test_every_planted_fault_is_one_of_this_tree() -> None:
    for mutant in planted(HOUSE):
        assert mutant.line, mutant
        assert all((HOUSE / test.partition("::")[0]).is_file() for test in mutant.tests), mutant
        assert _meaning(mutant.mutated) not in (None, _meaning(mutant.original)), mutant


def test_every_planned_file_is_there_with_its_tests_and_so_is_every_line_that_is_known() -> None:
    for module in MODULES:
        assert (HOUSE / module.path).is_file()
        assert all((HOUSE / test.partition("::")[0]).is_file() for test in module.tests), module
    for (path, old, new), reason in KNOWN.items():
        assert old in map(str.strip, (HOUSE / path).read_text("utf-8").splitlines()), (path, old)
        assert old != new
        assert reason


@pytest.mark.slow
def test_a_fault_is_caught_by_its_test_or_survives_and_the_file_is_as_it_was(copy: Copy) -> None:
    caught, survived, unreadable, looping = (
        toy(each) for each in ("found -= value", "found = found + value", "found +=", "while True: pass")
    )
    seconds = seconds_without_fault([copy], [caught])
    told: list[str] = []
    trials = try_all([copy], [caught, survived, unreadable], seconds, lambda trial: told.append(trial.outcome))
    assert [each.outcome for each in trials] == told == ["caught", "survived", "caught"]
    assert trials[0].said == "tests/test_total.py::test_total"
    assert trials[2].said == "tests/test_total.py (cannot be collected)"
    assert copy.try_out(looping, limit_seconds=2.0).outcome == "time limit"
    assert (copy.folder / "total.py").read_text() == SUM
    assert copy.try_out(caught, limit_seconds=HANG_SECONDS).outcome == "caught", "the process lives on"


def test_tests_that_fail_without_a_fault_are_no_catch(copy: Copy) -> None:
    (copy.folder / TESTS[0]).write_text("def test_total():\n    assert False\n")
    with pytest.raises(RuntimeError, match=r"test_total\.py: caught without a fault: .*::test_total"):
        seconds_without_fault([copy], [toy("found -= value")])


def test_a_known_mutant_is_known_by_its_lines_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = toy("found -= value")
    assert why_known(mutant) is None
    monkeypatch.setitem(KNOWN, ("total.py", "found += value", "found -= value"), "a reason")
    assert why_known(mutant) == "a reason"
    moved = replace(mutant, original=f"\n{mutant.original}", mutated=f"\n{mutant.mutated}")
    assert why_known(moved) == "a reason"


def test_annotations_and_layout_are_no_meaning() -> None:
    assert _meaning("def f(x: int | None) -> int:\n    y: int = x\n") == _meaning(
        "def f(x: int & None):\n    y: str=x\n"
    )
    assert _meaning("def f(x, *, y=1): pass") == _meaning("def f(x, /, y=1): pass") != _meaning("def f(x, y=2): pass")
    assert _meaning("x = 1") != _meaning("x = 2")
    assert _meaning("if not x := 1: pass") is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_copy_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mutants", "--planted", "--path", "bench/judge/metrics.py"],
        cwd=HOUSE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "3 faults in 1 files" in process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(1.0)  # tests may have begun, or not yet
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, said) == (130, "stopped; the copies are gone\n")
    assert list(tmp_path.iterdir()) == []
    assert len(started) >= 2
    assert not [each for each in psutil.wait_procs(started, timeout=HANG_SECONDS)[1] if each.is_running()]


def test_a_file_without_a_plan_is_refused() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--planted", "--path", "bench/none.py"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr == "error: no fault is planned for bench/none.py; tests/mutants/plan.py lists the files\n"

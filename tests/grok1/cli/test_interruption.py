"""Ctrl-C and SIGTERM at every moment of a start: one line, the shell's exit code, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.grok1.conftest import ROOT, TWO_RANKS, as_options, grok1_command
from tests.limits import HANG_SECONDS

Moment = Callable[[psutil.Process], bool]


def imports_began(process: psutil.Process) -> bool:
    """Of the command itself: what it needs of typer and pydantic."""
    return "pydantic_core" in _maps(process)


def forkserver_began(process: psutil.Process) -> bool:
    return bool(_forkservers(process))


def forkserver_imports_torch(process: psutil.Process) -> bool:
    return any("libtorch_cpu" in _maps(each) for each in _forkservers(process))


def ranks_began(process: psutil.Process) -> bool:
    return any(each.children() for each in _forkservers(process))


def _forkservers(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children() if "forkserver" in " ".join(each.cmdline())]


def _maps(process: psutil.Process) -> str:
    """The libraries that it has loaded so far."""
    try:
        return Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return ""


def interrupted(words: list[str], moment: Moment, number: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """(exit code, output, errors) of a command whose whole group gets the signal, as from a terminal, at a moment."""
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            start_new_session=True,
            # a shell's background command ignores Ctrl-C, and so do its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            watched, deadline = psutil.Process(process.pid), time.monotonic() + HANG_SECONDS
            while not _is_there(moment, watched) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, number)
            process.wait(HANG_SECONDS)
            left = _of_session(process.pid)
        finally:
            for each in _of_session(process.pid):
                os.kill(each, signal.SIGKILL)
        assert not left
    return process.returncode, (folder / "out").read_text(), (folder / "err").read_text()


def _is_there(moment: Moment, process: psutil.Process) -> bool:
    """Whether the moment has come; a child that ends while it is looked at is looked at again."""
    try:
        return moment(process)
    except psutil.Error:
        return False


def _of_session(leader: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


@pytest.fixture
def train_words(corpus: tuple[Path, Path]) -> list[str]:
    words = ["--recipe", "grok1-nano", "--data", corpus[0], "--tokenizer", corpus[1], "--device", "cpu"]
    return grok1_command("train", *words, *as_options(TWO_RANKS), "--steps", "100000")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="moments are told by /proc")
@pytest.mark.ranks(2)
@pytest.mark.matrix(keep=2)
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (imports_began, signal.SIGINT),
        (imports_began, signal.SIGTERM),
        (forkserver_began, signal.SIGINT),
        (forkserver_imports_torch, signal.SIGINT),
        (forkserver_imports_torch, signal.SIGTERM),
        (ranks_began, signal.SIGINT),
    ],
)
def test_a_job_that_starts_is_ended_in_one_line(
    moment: Moment, number: signal.Signals, train_words: list[str], tmp_path: Path
) -> None:
    code, _, errors = interrupted(train_words, moment, number, tmp_path)
    said = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (code, errors) == (128 + number, f"grok1: {said}; all processes were ended\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="moments are told by /proc")
@pytest.mark.ranks(2)
@pytest.mark.parametrize("moment", [imports_began, forkserver_imports_torch])
def test_a_benchmark_that_starts_is_ended_in_one_line(moment: Moment, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pytest", "bench/test_pretrain.py", "--benchmark", "-p", "no:cacheprovider", "-q"]
    words += [
        "--recipe",
        "grok1-nano",
        *as_options(TWO_RANKS),
        "--device",
        "cpu",
        "--results",
        str(tmp_path / "results"),
    ]
    code, output, errors = interrupted(words, moment, signal.SIGINT, tmp_path)
    lines = [line for line in f"{output}{errors}".splitlines() if "interrupted; all processes were ended" in line]
    assert (code, len(lines)) == (130, 1)
    assert "Traceback" not in f"{output}{errors}"


def test_a_command_in_the_background_stays_deaf_to_ctrl_c() -> None:
    code = (
        "import signal; from grok1.cli import interruption; interruption.unwind(); signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0

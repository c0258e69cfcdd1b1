"""`python -m bench doctor`: lines, JSON, exit codes, and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from bench.commands.app import app
from bench.doctor import examine
from bench.doctor.examine import Check, Doctor
from bench.doctor.findings import Finding, Report, failed
from bench.places import ROOT
from bench.records.jsonfile import read_model
from tests.limits import HANG_SECONDS


def doctor(*words: object) -> Result:
    return CliRunner().invoke(app, ["doctor", "--device", "cpu", *map(str, words)])


def report_of(path: Path) -> Report:
    return read_model(path, Report, max_bytes=1 << 20)


@pytest.mark.slow
@pytest.mark.ranks(4)
def test_a_sound_machine_passes_every_check(tmp_path: Path) -> None:
    shown = doctor("--ranks", 4, "--json", tmp_path / "found.json")
    assert shown.exit_code == 0, shown.output
    found = report_of(tmp_path / "found.json")
    assert (found.device, found.recipe, found.layout["world_size"]) == ("cpu", "grok1-nano", 4)
    assert {each.check for each in found.findings if each.state == "pass"} == {
        "driver",
        "software",
        "devices",
        "layer fp32",
        "oracle fp32",
        "oracle bf16",
        "ten steps fp32",
        "replicas fp32",
    }
    measured = {each.check for each in found.findings if each.state == "measured"}
    assert measured >= {"matrix products", "memory bandwidth", "collectives tensor", "collectives data", "memory"}
    assert not found.failures
    assert all(each.line() in shown.stdout for each in found.findings)
    assert "... ten steps in fp32, 4 ranks, TP2 PP1 EP2 ETP2 DP2" in shown.stderr
    assert shown.stdout.splitlines()[-1].startswith("PASS: ")


def test_a_check_that_fails_ends_with_1_and_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_doctor: Doctor) -> Iterator[Finding]:
        yield failed("driver", "there is none", "install one", {"version": 1.0})

    checks = (Check("driver", (), broken), Check("devices", ("driver",), Doctor.devices))
    monkeypatch.setattr(examine, "CHECKS", checks)
    shown = doctor("--json", tmp_path / "found.json")
    assert shown.exit_code == 1
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["fail", "not", "FAIL:"]
    assert "remedy: install one" in shown.stdout
    found = report_of(tmp_path / "found.json")
    assert [each.state for each in found.findings] == ["fail", "not run"]
    assert found.findings[0].figures == {"version": 1.0}


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    "words",
    [["--device", "tpu"], ["--recipe", "nothing"], ["--set", "model.num_layers=x"], ["--oracle", "nothing.npz"]],
)
def test_wrong_usage_is_refused(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "doctor", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bench: ")
    assert not done.stdout


@pytest.mark.slow
@pytest.mark.ranks(4)
def test_ctrl_c_leaves_no_process() -> None:
    command = [sys.executable, "-m", "bench", "doctor", "--device", "cpu", "--ranks", "4"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "collectives" in line:
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 130
    deadline = time.monotonic() + HANG_SECONDS
    while (left := _of_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _of_session(leader: int) -> list[str]:
    found = []
    for each in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if os.getsid(each.pid) == leader and each.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(each.info["cmdline"] or []))
        except (ProcessLookupError, PermissionError):
            continue
    return found

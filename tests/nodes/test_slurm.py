"""docs/slurm/grok1.sbatch under Slurm itself, on two nodes of one task or two. Skipped where Slurm is not installed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS
from tests.nodes.machines import Machine, TwoMachines, clone
from tests.nodes.slurm import Slurm, why_no_slurm

MANY_STEPS = 3000


@pytest.fixture(scope="module")
def slurm(two_machines: TwoMachines) -> Iterator[Slurm]:
    reason = why_no_slurm()
    if reason is not None:
        pytest.skip(f"no Slurm: {reason}")
    two_machines.plug_in()
    clone(two_machines.shared / "source")
    with Slurm(two_machines, two_machines.shared / "slurm") as cluster:
        yield cluster


def _submit(slurm: Slurm, machines: TwoMachines, tasks: int, *words: object) -> tuple[int, Path]:
    """The documented script's job, and the file of what its tasks say."""
    shared, source = machines.shared, machines.shared / "source"
    layout = {"world_size": 2 * tasks, "tensor": tasks, "pipeline": 2, "expert": 1, "expert_tensor": tasks}
    given = [word for axis, number in layout.items() for word in ("--set", f"parallel.{axis}={number}")]
    given += ["--data", str(shared / "data/alpaca_text_document"), "--tokenizer", str(shared / "grok1-tokenizer")]
    place = [f"--ntasks-per-node={tasks}", f"--chdir={source}", f"--output={shared}/job-%j.txt"]
    job = slurm.submit(
        [*place, source / "docs/slurm/grok1.sbatch", *given, *words],
        PYTHONPATH=str(source),
        RECIPE="grok1-nano",
        DEVICE="cpu",
        MASTER_ADDR=machines.both[0].address,  # no name server knows these machines
    )
    return job, shared / f"job-{job}.txt"


def test_the_documented_script_trains_on_two_nodes(slurm: Slurm, two_machines: TwoMachines) -> None:
    job, output = _submit(slurm, two_machines, 2, "--steps", 2)
    state = slurm.ended(job, HANG_SECONDS)
    said = output.read_text()
    assert state == "COMPLETED", said
    assert re.findall(r"^(\d): step (\d)/2", said, re.M) == [("0", "1"), ("0", "2")]


def test_a_task_that_dies_ends_the_job_on_both_nodes_and_is_named(slurm: Slurm, two_machines: TwoMachines) -> None:
    job, output = _submit(slurm, two_machines, 1, "--steps", MANY_STEPS)
    deadline = time.monotonic() + HANG_SECONDS
    while not (output.exists() and re.search("step +2/", output.read_text())) and time.monotonic() < deadline:
        time.sleep(0.2)
    (rank,) = _ranks(two_machines.both[1])
    os.kill(rank, signal.SIGKILL)
    killed_at = time.monotonic()
    state = slurm.ended(job, HANG_SECONDS)
    print(f"task killed: the job had ended after {time.monotonic() - killed_at:.1f} s")
    said = output.read_text()
    assert state == "FAILED", said
    assert re.search(r"srun: error: machine-b: task 1: Killed", said), said
    assert not _ranks(two_machines.both[0]) + _ranks(two_machines.both[1])


def _ranks(machine: Machine) -> list[int]:
    """The processes of `grok1 train` there."""
    found = []
    for process in machine.processes():
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        if b"train" in words and any(word.endswith(b"/grok1") for word in words):
            found.append(process)
    return found

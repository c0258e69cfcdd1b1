"""Two machines that do not make up one job: both say so in one line, and no rank starts.

All of these are started at once, each at a port of its own, because they mostly wait.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.limits import HANG_SECONDS
from tests.nodes.machines import Machine, Run, TwoMachines, commit_change

WAIT_SECONDS = 4  # for a node that does not come
MEET_SECONDS = 300  # for one that does: interpreters start slowly on a busy machine

A, B = r"\(machine-a, 10\.213\.77\.1\)", r"\(machine-b, 10\.213\.77\.2\)"
LOST = r"it was not started, or with another --master-addr or --master-port, or a firewall is between"
TRAIN: list[object] = ["-m", "grok1", "train", "--recipe", "grok1-nano", "--device", "cpu", "--steps", 6]
BENCH: list[object] = [
    "-m",
    "pytest",
    "bench/test_pretrain.py",
    "-p",
    "no:cacheprovider",
    "--benchmark",
    "--case",
    "grok1-nano",
]
BENCH += ["--device", "cpu", "--steps", 6]


@dataclass(frozen=True)
class Start:
    """What is typed on each machine (None: nothing), and what each must say."""

    said: tuple[str, str]
    second_rank: int = 1
    program: Sequence[object] = field(default_factory=lambda: TRAIN)
    on_second: tuple[object, ...] = ()
    other_port: int = 0  # for the second machine
    seconds: int = MEET_SECONDS


def absent(port: int) -> str:
    return rf"node 1 did not come to 10\.213\.77\.1 port {port} within {WAIT_SECONDS} s: {LOST}"


def not_found(port: int) -> str:
    return (
        rf"node 1 found no node 0 at 10\.213\.77\.1 port {port} within {WAIT_SECONDS} s \(Connection refused\): node 0"
    )


SAME = "type the same command on every node, but for the node's own rank"
TWICE = rf"--node-rank 0 was given twice: to node 0 {A} and to node 0 {B}; number the nodes from 0 to 1"
RECIPE = rf"node 1 {B} has training.seed 7, node 0 {A} has 1234; {SAME}"
COMMIT = rf"node 1 {B} has commit [0-9a-f]{{40}}, node 0 {A} has [0-9a-f]{{40}}; check out the same commit on every"

STARTS = {
    "absent": Start((absent(30000), ""), seconds=WAIT_SECONDS),
    "wrong port": Start((absent(30001), not_found(30101)), other_port=30101, seconds=WAIT_SECONDS),
    "rank given twice": Start((TWICE, TWICE), second_rank=0),
    "another recipe": Start((RECIPE, RECIPE), on_second=("--set", "training.seed=7")),
    "another commit": Start((COMMIT, COMMIT), program=BENCH),
}


@pytest.fixture(scope="module")
def ended(two_machines: TwoMachines) -> Iterator[dict[str, list[Run | None]]]:
    """Every start, at the port 30000 and its number; what ran on each machine, ended."""
    two_machines.plug_in()
    numbered = enumerate(STARTS.items())
    with commit_change(two_machines.both[1].source, "bench/__init__.py"):
        started = {name: _start(two_machines, 30000 + number, each) for number, (name, each) in numbered}
        for run in filter(None, (run for runs in started.values() for run in runs)):
            run.wait(HANG_SECONDS)
    yield started
    for machine in two_machines.both:
        machine.kill()


def _start(machines: TwoMachines, port: int, start: Start) -> list[Run | None]:
    def on(machine: Machine, node_rank: int, port: int, words: Sequence[object]) -> Run:
        place = ["--nnodes", 2, "--nproc-per-node", 8, "--node-rank", node_rank, "--no-shared-storage"]
        place += ["--master-addr", machines.both[0].address, "--master-port", port, "--start-timeout", start.seconds]
        data = ["--data", "data/alpaca_text_document", "--tokenizer", "grok1-tokenizer"]
        return machine.start([sys.executable, *start.program, *data, *place, *words])

    first, second = machines.both
    return [
        on(first, 0, port, ()),
        on(second, start.second_rank, start.other_port or port, start.on_second) if start.said[1] else None,
    ]


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_cannot_be_a_job_ends_on_both_with_one_line(
    ended: dict[str, list[Run | None]], two_machines: TwoMachines, name: str
) -> None:
    for run, line in zip(ended[name], STARTS[name].said, strict=True):
        if run is None:
            continue
        assert run.process.returncode == 2, run.text
        assert re.search(line, run.text), run.text
        assert "Traceback" not in run.text
        print(f"{name}: ended after {run.seconds:.1f} s, imports included")
    for machine in two_machines.both:
        assert not list((machine.source / "results").glob("records/*"))


def test_nothing_is_left_running(ended: dict[str, list[Run | None]], two_machines: TwoMachines) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while (left := [each for machine in two_machines.both for each in machine.processes()]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not left

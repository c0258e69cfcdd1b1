"""A job on two machines: the documented commands on 8 + 8 ranks of a CPU, and a checkpoint and faults on fewer.

Each fault ends on both machines in one line that names the cause, and leaves neither a process nor a record. How long
it took is printed; docs/two-nodes.md states what it takes where nothing else runs.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.records.record import Record
from tests.limits import HANG_SECONDS
from tests.nodes.machines import ROOT, Machine, Run, TwoMachines

DOCUMENTED = re.compile(r"```shell\n(.*?)```", re.S)
BYTES_OF_SOME_STEPS = 500_000  # of two ranks; a start and three steps are 175,000
SAVED_STEPS = 20  # more than a job does between Ctrl-C and its end
MANY_STEPS = 3000  # more than any test waits for; the sample index grows with them


def documented(first_word: str, changes: dict[str, str]) -> str:
    """The command of docs/two-nodes.md that starts so, for the small recipe on a CPU."""
    blocks = DOCUMENTED.findall((ROOT / "docs" / "two-nodes.md").read_text(encoding="utf-8"))
    (command,) = [block for block in blocks if block.startswith(first_word)]
    for old, new in changes.items():
        assert old in command, f"{old} is not in the documented command"
        command = command.replace(old, new)
    return str(command)


def start_documented(machines: TwoMachines, command: str, port: int) -> list[Run]:
    """Type it on both machines."""
    address = machines.both[0].address
    return [
        machine.start(["bash", "-c", command], R=str(rank), A=address, P=str(port))
        for rank, machine in enumerate(machines.both)
    ]


def training(machines: TwoMachines, port: int, *words: object, ranks: int = 1, folder: Path = Path()) -> list[object]:
    """`grok1 train` with that many ranks a node, on the corpus in a folder; the pipeline goes over the cable."""
    layout = {"world_size": 2 * ranks, "tensor": ranks, "pipeline": 2, "expert": 1, "expert_tensor": ranks}
    given = [word for axis, number in layout.items() for word in ("--set", f"parallel.{axis}={number}")]
    place = ["--nnodes", 2, "--master-addr", machines.both[0].address, "--master-port", port, "--nproc-per-node", ranks]
    data = ["--data", folder / "data" / "alpaca_text_document", "--tokenizer", folder / "grok1-tokenizer"]
    command = [sys.executable, "-m", "grok1", "train", "--recipe", "grok1-nano", "--device", "cpu"]
    return [*command, *given, *data, *place, *words]


def in_order(*words: object) -> list[list[object]]:
    """Node ranks as they should be, and more words for each."""
    return [["--node-rank", rank, *words] for rank in (0, 1)]


def nothing_runs(machines: TwoMachines) -> bool:
    """Before long."""
    deadline = time.monotonic() + HANG_SECONDS
    while any(machine.processes() for machine in machines.both) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(machine.processes() for machine in machines.both)


def records(machine: Machine) -> list[Path]:
    return list((machine.source / "results").glob("records/*"))


@pytest.fixture(autouse=True)
def _says_its_seconds(request: pytest.FixtureRequest) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{request.node.name}: {time.monotonic() - started:.1f} s")


# ---- what should work --------------------------------------------------------------------------------------


def test_the_documented_benchmark_leaves_one_record_of_sixteen_ranks_on_two_nodes(
    machines: TwoMachines, port: int
) -> None:
    small = {"grok1-40b": "grok1-nano --steps 6", "npu": "cpu"}
    runs = start_documented(machines, documented("pytest", small), port)
    assert [run.wait(HANG_SECONDS) for run in runs] == [0, 0], runs[0].text + runs[1].text
    (stored,) = records(machines.both[0])
    assert records(machines.both[1]) == []
    record = Record.read(stored)
    assert record.valid
    assert [rank.rank for rank in record.ranks] == list(range(16))
    assert (record.layout.nodes, record.layout.ranks_per_node) == (2, 8)
    print(f"{machines.both[0].received_bytes()} bytes came over the cable")
    assert (len(record.steps), record.commit.sha is not None) == (6, True)
    for machine in machines.both:  # each built its own sample index
        assert list((machine.source / "data" / "cache").iterdir())
    stored.unlink()
    assert nothing_runs(machines)


# ---- what goes wrong in a running job ----------------------------------------------------------------------


def losses(run: Run) -> dict[int, float]:
    """By step, as the log says."""
    return {int(step): float(loss) for step, loss in re.findall(r"^step +(\d+)/\d+ \| loss ([\d.]+)", run.text, re.M)}


@pytest.mark.slow
def test_ctrl_c_on_one_machine_ends_both(interrupted: dict[int, float]) -> None:
    """As the fixture asserts; the checkpoint that was written before is whole."""
    assert max(interrupted) > SAVED_STEPS


@pytest.fixture(scope="module")
def interrupted(two_machines: TwoMachines, ports: Iterator[int]) -> dict[int, float]:
    """Losses by step of a job that Ctrl-C on machine b ended after a checkpoint; asserts how both ended."""
    two_machines.plug_in()
    shared = two_machines.shared
    saving = ["--steps", MANY_STEPS, "--save", shared / "checkpoints", "--save-interval", SAVED_STEPS]
    first, second = two_machines.start(training(two_machines, next(ports), *saving, folder=shared), *in_order())
    first.wait_for(rf"step +{SAVED_STEPS + 1}/", HANG_SECONDS)
    second.process.send_signal(signal.SIGINT)
    asked_at = time.monotonic()
    assert (second.wait(HANG_SECONDS), first.wait(HANG_SECONDS)) == (130, 1)
    print(f"Ctrl-C: both had ended after {time.monotonic() - asked_at:.1f} s")
    assert second.text.splitlines()[-1] == "grok1: interrupted; all processes were ended"
    line = r"grok1: node 1 \(machine-b, 10.213.77.2\) was interrupted"
    assert re.fullmatch(line, first.text.splitlines()[-1]), first.text
    assert nothing_runs(two_machines)
    return losses(first)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_on_both_and_a_machine_that_dies_then_ends_the_other(
    interrupted: dict[int, float], machines: TwoMachines, port: int
) -> None:
    shared = machines.shared
    resuming = training(machines, port, "--steps", MANY_STEPS, "--load", shared / "checkpoints", folder=shared)
    target = machines.both[0].folder / "resumed.json"
    first, _ = machines.start(resuming, *in_order("--json", target))
    first.wait_for(rf"step +{SAVED_STEPS + 2}/", HANG_SECONDS)
    assert min(losses(first)) == SAVED_STEPS + 1
    assert losses(first)[SAVED_STEPS + 1] == interrupted[SAVED_STEPS + 1]
    machines.both[1].kill()
    killed_at = time.monotonic()
    assert first.wait(HANG_SECONDS) == 1
    print(f"machine killed: the other had ended after {time.monotonic() - killed_at:.1f} s")
    lost = r"grok1: node 1 \(machine-b, 10.213.77.2\) has gone: its launcher ended without a word"
    assert re.fullmatch(lost, first.text.splitlines()[-1]), first.text
    assert not target.exists()
    assert nothing_runs(machines)


@dataclass(frozen=True)
class Cut:
    """A job whose cable was cut while it trained."""

    runs: list[Run]
    at: float  # of the monotonic clock


@pytest.fixture(scope="module")
def cut(more_machines: TwoMachines, ports: Iterator[int]) -> Cut:
    """The documented benchmark with one rank a node, on machines that nothing else uses."""
    one_each = "".join(f" --set parallel.{axis}=1" for axis in ("tensor", "expert", "expert_tensor"))
    small = {"grok1-40b": f"grok1-nano --steps {MANY_STEPS} --set parallel.world_size=2{one_each}", "npu": "cpu"}
    small |= {"--nproc-per-node 8": "--nproc-per-node 1"}
    received_before = more_machines.both[0].received_bytes()
    runs = start_documented(more_machines, documented("pytest", small), next(ports))
    _wait_for_traffic(more_machines, runs, received_before)
    more_machines.cut()
    return Cut(runs, time.monotonic())


def _wait_for_traffic(machines: TwoMachines, runs: Sequence[Run], received_before: int) -> None:
    """Until the ranks have exchanged more than a start takes; a run of pytest's says nothing of its steps in a pipe."""
    deadline = time.monotonic() + HANG_SECONDS
    while machines.both[0].received_bytes() - received_before < BYTES_OF_SOME_STEPS:
        assert time.monotonic() < deadline, runs[0].text + runs[1].text
        assert all(run.process.poll() is None for run in runs), runs[0].text + runs[1].text
        time.sleep(0.1)


@pytest.mark.slow
def test_the_documented_torchrun_command_trains_on_both(cut: Cut, machines: TwoMachines, port: int) -> None:
    """Sixteen interpreters start, while the job with the cut cable waits for its other half."""
    small = {"grok1-40b": "grok1-nano", "npu": "cpu", "--steps 50": "--steps 2"}
    runs = start_documented(machines, documented("torchrun", small), port)
    assert [run.wait(HANG_SECONDS) for run in runs] == [0, 0], runs[0].text + runs[1].text
    assert re.findall(r"^step (\d)/2", runs[0].text, re.M) == ["1", "2"]
    assert "step" not in runs[1].text


@pytest.mark.slow
def test_a_cut_cable_ends_both_machines_under_torchrun_too(machines: TwoMachines, port: int) -> None:
    one_each = "".join(f" --set parallel.{axis}=1" for axis in ("tensor", "expert", "expert_tensor"))
    small = {"grok1-40b": f"grok1-nano --set parallel.world_size=2{one_each}", "npu": "cpu"}
    small |= {"--steps 50": f"--steps {MANY_STEPS}", "--nproc_per_node 8": "--nproc_per_node 1"}
    runs = start_documented(machines, documented("torchrun", small), port)
    runs[0].wait_for(r"step +3/", HANG_SECONDS)
    machines.cut()
    at = time.monotonic()
    assert [run.wait(HANG_SECONDS) for run in runs] == [1, 1]
    print(f"cable cut under torchrun: both had ended after {max(run.ended_at for run in runs) - at:.1f} s")
    for node, run in enumerate(runs):
        other = rf"rank {1 - node} on node {1 - node} \(machine-{'ab'[1 - node]}\S*\)"
        line = rf"(?m)^grok1: rank {node} on node {node} \(\S+\) ends: {other} was not heard for 20 s: "
        assert re.search(line, run.text), run.text
    assert nothing_runs(machines)


@pytest.mark.slow
def test_a_cut_cable_ends_both_machines_and_leaves_no_record(cut: Cut, more_machines: TwoMachines) -> None:
    assert [run.wait(HANG_SECONDS) for run in cut.runs] == [1, 1]
    seconds = max(run.ended_at for run in cut.runs) - cut.at
    print(f"cable cut: both had ended after {seconds:.1f} s")
    for run, other in zip(cut.runs, (r"node 1 \(machine-b", r"node 0 \(machine-a"), strict=True):
        line = rf"(?m)^grok1-nano: {other}, 10.213.77.\d\) was not heard for 15 s: the network is cut"
        assert re.search(line, run.text), run.text
    assert not any(records(machine) for machine in more_machines.both)
    assert nothing_runs(more_machines)

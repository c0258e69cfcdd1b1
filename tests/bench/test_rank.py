"""`python -m bench rank`: each kernel of the real job's step runs on one rank alone, is timed and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.cases import select
from bench.commands import rank
from bench.commands.app import app
from bench.lone_rank import is_operator
from bench.plan.expected import rank_work
from bench.records.record import Record
from grok1.config.load import load_recipe

NANO = load_recipe("grok1-nano")


def rank_command(results: Path, *words: object) -> Result:
    told = ["rank", "--device", "cpu", "--results", results, *words]
    return CliRunner().invoke(app, [str(word) for word in told])


@pytest.mark.matrix(keep=1)
@pytest.mark.ranks(1)
@pytest.mark.parametrize(("rank", "stage"), [(0, 0), (15, 1)])
def test_a_rank_of_sixteen_runs_alone(rank: int, stage: int, tmp_path: Path) -> None:
    words = ("--recipe", "grok1-nano", "--rank", rank, "--steps", 4, "--json", tmp_path / "found.json")
    shown = rank_command(tmp_path, *words)
    assert shown.exit_code == 0, shown.output
    assert f"grok1-nano: rank {rank} of 16 (stage {stage}), alone on" in shown.stdout
    (path,) = (tmp_path / "records").iterdir()
    record = Record.read(path)
    # what is received is not finite unless somebody makes it so, and then no number of the step is
    assert (record.valid, record.case, record.layout.world_size) == (True, f"grok1-nano-rank-{rank}", 16)
    assert record.lone_rank is not None
    assert (record.lone_rank.rank, [each.rank for each in record.ranks]) == (rank, [rank])
    assert {step.loss for step in record.steps} == {step.grad_norm for step in record.steps} == {None}
    (samples,) = record.ranks
    assert samples.stage == stage
    assert {"forward", "backward", "optimizer"} <= samples.phases_seconds.keys()
    assert samples.operator_calls is not None
    assert samples.operator_calls > 1000
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert (run["rank"], run["stage"], run["recipe"]["hash"], run["id"]) == (rank, stage, NANO.hash(), record.id)
    assert run["peak_bytes"] > 1 << 20
    # 2 micro-batches: activations one way, their gradients the other; all of the tensor ranks' 4-way share
    sent = NANO.training.sequence_length * NANO.training.micro_batch * NANO.model.hidden_size // 4 * 4
    assert run["communication"]["pipeline send"] == {"calls": 2.0, "bytes": 2.0 * sent}
    assert run["communication"]["pipeline receive"] == {"calls": 2.0, "bytes": 2.0 * sent}
    assert run["communication"] == in_closed_form(record)


def in_closed_form(record: Record) -> dict[str, dict[str, float]]:
    """What the planner says that this rank exchanges in a step."""
    assert record.lone_rank is not None
    work, found = rank_work(NANO, record.lone_rank), dict[str, dict[str, float]]()
    for each in work.exchanges:
        times = int(work.micro_batches[0]) if each.per == "micro_batch" else 1
        sums = found.setdefault(f"{each.group} {each.operation}", {"calls": 0.0, "bytes": 0.0})
        sums["calls"] += times * int(each.calls[0])
        sums["bytes"] += times * int(each.bytes[0])
    return {name: sums for name, sums in found.items() if sums["calls"]}


@pytest.mark.slow
@pytest.mark.ranks(1)
def test_routing_is_as_planned(tmp_path: Path) -> None:
    """A rank whose experts get more than equal shares give them is sent more."""
    shares = "0.1875,0.1875,0.1875,0.1875,0.0625,0.0625,0.0625,0.0625"
    sent: list[float] = []
    for words in ((), ("--routing", shares)):
        shown = rank_command(
            tmp_path, "--recipe", "grok1-nano", "--steps", 4, "--json", tmp_path / "found.json", *words
        )
        assert shown.exit_code == 0, shown.output
        (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
        sent.append(run["communication"]["expert-tensor x expert all_to_all_single"]["bytes"])
    assert sent[1] == 1.5 * sent[0]
    record = Record.read(Path(run["record"]))
    assert record.lone_rank is not None
    assert record.lone_rank.routing_shares == [float(each) for each in shares.split(",")]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--recipe", "grok1-nano", "--rank", 16), "ranks 0 to 15"),
        (("--recipe", "grok1-314b"), "needs about"),
        (("--recipe", "grok1-nano", "--device-profile", "h101"), "unknown device 'h101'"),
        (("--recipe", "grok1-nano", "--device-profile", "h100-sxm"), "states no peak for fp32"),
        (("--recipe", "grok1-nano", "--routing", "0.5,0.5"), "2 shares that sum to 1, not 8 of 1 in all"),
        (("--recipe", "grok1-nano", "--routing", "0.9,0.1,0,0,0,0,0,0"), "and at most 0.5"),
        (("--recipe", "grok1-nano", "--routing", "0.25,0.25,0.25,0.25,0,0,0,0"), "--routing 0: a share is above 0"),
        (("--recipe", "grok1-nano", "--routing", "0.5,much"), "must be numbers"),
    ],
)
def test_a_rank_that_is_not_there_or_does_not_fit_is_refused(
    words: tuple[object, ...], reason: str, tmp_path: Path
) -> None:
    shown = rank_command(tmp_path, *words)
    assert reason in str(shown.exception)
    assert isinstance(shown.exception, ValueError)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("name", "device", "is_one"),
    [
        ("aten::mm", "cpu", True),
        ("autograd::engine::evaluate_function: MmBackward0", "cpu", False),
        ("Optimizer.step#Adam", "cpu", False),
        ("ampere_gemm", "cuda", True),
    ],
)
def test_marks_are_no_operators(name: str, device: str, is_one: bool) -> None:
    assert is_operator(name, device) == is_one


@pytest.mark.parametrize("device", ["cpu", "cuda", "npu"])
def test_without_a_recipe_the_devices_own_is_taken(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (own,) = select(None, device)
    asked: list[str] = []

    def refuse(name: str, *_: object) -> None:
        asked.append(name)
        raise ValueError("enough")

    monkeypatch.setattr(rank, "load_recipe", refuse)
    monkeypatch.setattr(rank, "chosen_kind", lambda _: device)
    rank_command(tmp_path)
    assert asked == [own.recipe]
    assert f"{own.recipe} on {device}" in " ".join(CliRunner().invoke(app, ["rank", "--help"]).output.split())

"""Signatures of a dry run against the ledger's counts, and a calibration of the smallest rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.calibrate import calibration, crowding
from bench.calibrate.signatures import count_steps, job_shape
from bench.ledger.count import count
from bench.plan.device import load_device
from bench.plan.measured_device import predict_measured
from grok1.config.load import ONE_RANK, load_recipe
from tests.lines import NO_NPU

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_signatures_are_called_as_often_as_the_ledger_counts_operators() -> None:
    recipe = load_recipe("grok1-nano", ["training.global_batch=8"])
    (counted,), ledger = count_steps([recipe]), count(recipe)
    for ours, theirs in zip(counted, ledger.ranks, strict=True):
        calls: dict[tuple[str, str], int] = defaultdict(int)
        flops: dict[tuple[str, str], int] = defaultdict(int)
        for each in ours.operators:
            calls[(each.phase, each.component)] += each.calls
            flops[(each.phase, each.component)] += each.calls * each.flops
        assert calls == {(row.phase, row.component): row.operator_calls for row in theirs.costs}
        # the report stacks the losses of all micro-batches, of which the dry run makes the first few
        rows = [row for row in theirs.costs if row.phase != "report"]
        assert {key: value for key, value in flops.items() if key[0] != "report"} == {
            (row.phase, row.component): row.matrix_flops + row.vector_flops for row in rows
        }
        moved = {(each.phase, each.group, each.operation): (each.calls, each.bytes) for each in ours.collectives}
        assert moved == {(row.phase, row.group, row.operation): (row.calls, row.bytes) for row in theirs.collectives}
        assert (ours.rank, ours.stage, ours.ranks_alike) == (theirs.rank, theirs.stage, theirs.ranks_alike)


@pytest.mark.ranks(2)
@pytest.mark.slow
def test_a_rank_is_calibrated_and_its_step_predicted(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = crowding.crowd_jobs()[:1]
    monkeypatch.setattr(calibration, "CPU_JOBS", (2,))
    monkeypatch.setattr(calibration, "crowd_jobs", lambda: pair)
    path = tmp_path / "device.json"
    words = [word for change in ONE_RANK for word in ("--set", change)]
    code, out, err = bench(
        "calibrate", "--device", "cpu", "--recipe", "grok1-nano", *words, "--minutes", 0.1, "-o", path
    )
    assert code == 0, err
    assert "operators" in out
    assert "collectives among 2 ranks" in err
    device = load_device(str(path))
    assert device.measured is not None
    assert {each.job_ranks for each in device.measured.collectives} == {2}
    assert [each.job_ranks for each in device.measured.crowding] == [2]
    assert [each.job_ranks for each in device.measured.whole_steps] == [1, 2]
    code, out, err = bench("plan", "--recipe", "grok1-nano", "--world-size", 2, "--device", path, "--top", 1)
    assert code == 0, err
    assert "calibrate again" not in out
    recipe = load_recipe("grok1-nano", ONE_RANK)
    (counts,) = count_steps([recipe])
    found = predict_measured(counts, job_shape(recipe), device)
    assert found.looked_up > 0.9
    assert found.step_seconds > 0.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "tpu"), "tpu"),
        (("--device", "npu"), NO_NPU),
        (("--device", "cpu", "--recipe", "grok1-none"), "unknown recipe 'grok1-none'"),
        (("--device", "cpu", "--set", "model.num_layers=2"), "add --recipe"),
        (("--device", "cpu", "-o", "device.toml"), "give a name that ends so"),
    ],
)
def test_bad_input_is_one_line(bench: Command, words: tuple[str, ...], said: str) -> None:
    code, _, err = bench("calibrate", *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1

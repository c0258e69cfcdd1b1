"""What `grok1 train` says of a job, and what it hands to trackers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from grok1.cli.train_log import TrainLog, scalars, start_line, step_line
from grok1.config.load import load_recipe
from grok1.training.result import CheckpointSaved, Resumed, StepDone, StepMetrics, Warned

NANO = load_recipe("grok1-nano")
METRICS = StepMetrics(9, 2.5, 0.125, 1.5, 1e-3, skipped=False, z_loss=0.25, dropped_pairs=1234)
DONE = StepDone(METRICS, 0.25, 3 << 20)


def test_the_job_is_told_in_one_line() -> None:
    line = start_line(NANO, 20, "cpu", None)
    assert line == (
        "grok1-nano: 2.50 M parameters, 0.68 M active | 16 ranks on cpu, TP4 PP2 EP2 ETP4 DP2 | "
        "data the sample corpus | to step 20, 128 tokens each"
    )
    assert "data my/corpus" in start_line(NANO, 20, "cpu", Path("my/corpus"))
    assert "data not given" in start_line(load_recipe("grok1-40b"), 20, "cpu", None)  # which has no sample corpus


def test_a_step_is_counted_from_one_and_whole_in_a_pipe() -> None:
    assert step_line(DONE, NANO, 100) == (
        "step  10/100 | loss 2.500000 | aux loss 0.1250 | z loss 0.2500 | dropped 1,234 | grad norm 1.5000 | "
        "lr 1.000e-03 | 0.250 s/step | 32.0 tokens/s/p | 0.0001324 TFLOP/s/p | 3 MiB"
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 157, 158, 300])
def test_a_step_fits_the_terminal_and_keeps_what_says_most(width: int) -> None:
    line, whole = step_line(DONE, NANO, 100, width), step_line(DONE, NANO, 100)
    assert line.startswith("step  10/100 | loss 2.5")
    assert len(line) <= max(width, len("step  10/100 | loss 2.500000"))
    assert ("s/step" in line) >= ("TFLOP" in line)
    assert set(line.split(" | ")) <= set(whole.split(" | "))
    assert (line == whole) == (width >= len(whole))


class Noted:
    where = "nowhere"

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps[step] = dict(values)


def test_every_event_is_a_line_and_the_summary_tells_the_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noted = Noted()
    log = TrainLog(NANO, 100, [noted])
    for event in (Resumed(tmp_path / "old", 9), DONE, CheckpointSaved(tmp_path / "new", 10, 1.25)):
        log.hear(event)
    resumed, step, saved = capsys.readouterr().out.splitlines()
    assert resumed == "resumed from old at step 9"
    assert step == step_line(DONE, NANO, 100)
    assert saved == "saved step 10 to new in 1.2 s"
    assert log.summary("traces there") == (
        "done: 1 step, 128 tokens | median 0.250 s/step, 32.0 tokens/s/p | last loss 2.500000 | "
        "checkpoints new | traces there"
    )
    assert noted.steps == {10: scalars(DONE, NANO)}
    with pytest.raises(AssertionError):
        log.hear(Warned("of a benchmark"))


def test_a_terminal_gets_what_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    TrainLog(NANO, 100).hear(DONE)
    assert capsys.readouterr().out == f"{step_line(DONE, NANO, 100, 60)}\n"


def test_trackers_get_numbers_alone() -> None:
    assert scalars(DONE, NANO) == {
        "loss": 2.5,
        "aux_loss": 0.125,
        "z_loss": 0.25,
        "dropped_pairs": 1234,
        "grad_norm": 1.5,
        "learning_rate": 1e-3,
        "step_seconds": 0.25,
        "tokens_per_second_per_processor": 32.0,
        "peak_bytes": 3 << 20,
    }
    plain = StepDone(StepMetrics(0, 2.5, 0.1, 1.0, 1e-3, skipped=False), 1.0, 1)
    assert not {"z_loss", "dropped_pairs"} & scalars(plain, NANO).keys()

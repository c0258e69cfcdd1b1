"""The step that is profiled after a run: whatever becomes of it, the finished run is kept."""

from __future__ import annotations

from typing import Any

import pytest

import tests.bench.extra_step_entries as entries
from bench import measure
from bench.records.record import Record
from grok1.config.load import load_recipe
from grok1.distributed import launch as launching
from grok1.training.job import prepare
from tests.limits import HANG_SECONDS

STEPS = 2
TWO_RANKS = (
    "parallel.world_size=2",
    *(f"parallel.{axis}=1" for axis in ("tensor", "pipeline", "expert", "expert_tensor")),
)


def run(monkeypatch: pytest.MonkeyPatch, entry: str) -> Record | None:
    """A benchmark's run of two ranks, through an entry of ours in place of the real one."""

    def through(*arguments: Any, **settings: Any) -> Any:
        changed = {"entry": f"{entries.__name__}:{entry}", "timeout_seconds": HANG_SECONDS}
        return launching.launch(*arguments, **{**settings, **changed})

    monkeypatch.setattr(measure, "launch", through)
    return measure.run("grok1-nano", prepare(load_recipe("grok1-nano", TWO_RANKS), STEPS), "cpu")


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("raise_on_rank_0", "rank 0: in the middle of a step"),
        ("raise_on_rank_1", "rank 1: in the middle of a step"),
        ("raise_on_rank_1_while_rank_0_is_slow", "rank 1: in the middle of a step"),
        ("raise_everywhere", ": in the middle of a step"),
        ("refuse_on_rank_1", "no such step"),
        ("die_on_rank_1", "rank 1: the process was killed by signal 9"),
    ],
)
def test_a_run_is_kept_whose_extra_step_fails(
    entry: str, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "_SETTLE_SECONDS", 0.2)  # the launcher waits no longer for other ranks' words
    record = run(monkeypatch, entry)
    assert record is not None
    assert record.valid, record.void_reasons
    assert (len(record.steps), len(record.ranks)) == (STEPS, 2)
    assert [rank.modules_seconds for rank in record.ranks] == [{}, {}]
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "warning: grok1-nano: no seconds by module, for the profiled step after the run failed"
    )
    assert reason in warnings[0]


@pytest.mark.slow
def test_a_profiler_that_fails_is_said_and_the_step_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = run(monkeypatch, "break_the_profiler_of_rank_0")
    assert record is not None
    assert record.valid
    assert [rank.modules_seconds for rank in record.ranks] == [{}, {}]
    said = "warning: grok1-nano: rank 0 has no seconds by module: the profiler could not start: no profiler here"
    assert capfd.readouterr().err.splitlines() == [said]


def test_a_run_that_fails_before_all_is_measured_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(launching.RankFailedError, match="rank 1 failed"):
        run(monkeypatch, "fail_in_the_run")

"""One rank of a job, alone, with real tensors: each kernel and collective of the real job runs, and is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.__main__ import app
from bench.lone_rank import LoneRank
from grok1.config.load import load_recipe

NANO = load_recipe("grok1-nano")


def lone_rank(*words: object) -> Result:
    return CliRunner().invoke(app, ["lone-rank", "--device", "cpu", *map(str, words)])


def test_two_steps_give_the_time_of_a_micro_batch_and_the_rest() -> None:
    found = LoneRank(0, 0, {3: [0.5 + 3 * 2.0, 0.5 + 3 * 2.0], 5: [0.5 + 5 * 2.0, 0.5 + 5 * 2.0]}, 1, "device")
    assert found.micro_batch_seconds == pytest.approx(2.0)
    assert found.fixed_seconds == pytest.approx(0.5)
    # two micro-batches, and one more for the second stage
    assert found.step_seconds(NANO) == pytest.approx(0.5 + 3 * 2.0)


@pytest.mark.ranks(1)
@pytest.mark.parametrize(("rank", "stage"), [(0, 0), (15, 1)])
def test_a_rank_of_sixteen_runs_alone(rank: int, stage: int, tmp_path: Path) -> None:
    shown = lone_rank("--recipe", "grok1-nano", "--rank", rank, "--rounds", 2, "--json", tmp_path / "found.json")
    assert shown.exit_code == 0, shown.output
    assert f"rank {rank} of grok1-nano (stage {stage}), alone on" in shown.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["rank"], found["stage"], found["recipe"]["hash"]) == (rank, stage, NANO.hash())
    assert {count: len(seconds) for count, seconds in found["seconds"].items()} == {"3": 2, "5": 2}
    assert found["peak_bytes"] > 1 << 20


def test_a_rank_that_is_not_there_or_does_not_fit_is_refused() -> None:
    for words, reason in (
        (("--recipe", "grok1-nano", "--rank", 16), "ranks 0 to 15"),
        (("--recipe", "grok1-314b"), "needs about"),
    ):
        shown = lone_rank(*words)
        assert reason in str(shown.exception)
        assert isinstance(shown.exception, ValueError)

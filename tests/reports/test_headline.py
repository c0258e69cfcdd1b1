"""The first line and the next step: short, true, and a command that can be typed."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.verdict import Verdict
from bench.records.record import Commit, Record
from reports.case import CaseResult, assess
from reports.headline import headline
from reports.next_step import next_step

SHA, OTHER = "a" * 40, "b" * 40


def runs(synthetic_record, count: int = 3, seconds: float = 39.8, sha: str = SHA, **changes) -> list[Record]:
    commit = {"sha": sha, "dirty": False}
    return [
        synthetic_record(seed=round(100 * seconds) + seed, median_seconds=seconds, commit=commit, **changes)
        for seed in range(count)
    ]


@pytest.fixture
def baseline(synthetic_record) -> Baseline:
    return recorded_baseline(runs(synthetic_record, 5), "invented")


def judged(records: list[Record], *baselines: Baseline) -> CaseResult:
    return assess(records, baselines)[0]


@pytest.mark.parametrize(
    ("seconds", "begins"),
    [
        (46.0, "FAIL: grok1-40b is 15."),
        (34.0, "IMPROVED: grok1-40b is 14."),
    ],
)
def test_the_first_line_is_the_verdict_how_much_and_how_sure(synthetic_record, baseline, seconds, begins) -> None:
    line = headline([judged(runs(synthetic_record, 3, seconds, OTHER), baseline)])
    assert line.startswith(begins)
    assert line.endswith(")")
    assert len(line) < 90


def test_where_there_is_no_answer_the_first_line_says_so(synthetic_record, baseline) -> None:
    apart = [run for seconds in (38.0, 41.0, 44.0) for run in runs(synthetic_record, 1, seconds, OTHER)]
    case = judged(apart, baseline)
    assert headline([case]).startswith("INCONCLUSIVE: grok1-40b may be slower or not (+")
    step = next_step(case)
    assert step is not None
    assert step[1]


def test_without_a_baseline_it_is_the_two_figures(synthetic_record) -> None:
    case = judged(runs(synthetic_record, case="a on b", recipe={"name": "x"}))
    assert headline([case]).startswith("NO BASELINE: a on b ran at 1,64")
    assert headline([case]).endswith(" s/step)")


def test_after_a_failure_both_commits_are_run(synthetic_record, baseline) -> None:
    step = next_step(judged(runs(synthetic_record, 3, 46.0, OTHER), baseline))
    assert step is not None
    assert step[1] == f"python -m bench ab --base {SHA[:12]} --case grok1-40b --device npu"


def test_what_was_asked_of_the_case_is_asked_again(synthetic_record, baseline) -> None:
    recompute = '--set=training.recompute_modules=["core_attn"]'
    asked = ["--recipe=grok1-nano", "--steps=9", "--data=PREFIX", "--tokenizer=PATH", recompute]
    step = next_step(judged(runs(synthetic_record, 3, 46.0, OTHER, asked=asked), baseline))
    assert step is not None
    assert step[1] is not None
    assert shlex.split(step[1])[6:] == ["--case", "grok1-40b", *asked, "--device", "npu"]
    for word in ("--set=a=$(rm -rf /)", "--set=a=`b`", "--set=a=b\nc"):
        step = next_step(judged(runs(synthetic_record, 3, 46.0, OTHER, asked=[word]), baseline))
        assert step is not None
        assert step[1] is None


def test_the_same_commit_sends_the_reader_to_the_machine(synthetic_record, baseline) -> None:
    step = next_step(judged(runs(synthetic_record, 3, 46.0), baseline))
    assert step is not None
    assert step[1] == "python -m bench doctor --device npu"


def test_five_runs_without_a_baseline_become_one(synthetic_record) -> None:
    few, enough = (next_step(judged(runs(synthetic_record, count))) for count in (1, 5))
    assert few is not None
    assert enough is not None
    assert few[1] == (
        "pytest bench/test_pretrain.py --benchmark --case grok1-40b --device npu "
        "--nnodes 2 --node-rank R --master-addr A --nproc-per-node 8 --runs 5"
    )
    ours = [f"results/records/grok1-40b-{each.id}.json" for each in runs(synthetic_record, 5)]
    assert enough[1] == " ".join(["python -m bench baseline record", *ours])


@pytest.mark.parametrize("count", [1, 5])
def test_after_a_slowdown_on_purpose_the_next_runs_are_without_it(synthetic_record, baseline, count: int) -> None:
    slower = runs(synthetic_record, max(count, 3), 46.0, OTHER, planted_percent=15.0)
    for case in (judged(slower, baseline), judged(slower[:count])):
        step = next_step(case)
        assert step is not None
        assert step[0] == "These runs were made slower on purpose. Without that:"
        assert step[1] is not None
        assert step[1].startswith("pytest bench/test_pretrain.py --benchmark --case grok1-40b ")


@pytest.mark.parametrize(("count", "asked"), [(2, 10), (12, 24)])
def test_more_runs_are_more_than_there_were(synthetic_record, count: int, asked: int) -> None:
    """Where no commit is known to run beside them."""
    before = [run for seconds in (36.0, 38.0, 40.0, 42.0, 44.0) for run in runs(synthetic_record, 1, seconds)]
    stored = recorded_baseline([run.model_copy(update={"commit": Commit(sha=None, dirty=None)}) for run in before], "-")
    step = next_step(judged(runs(synthetic_record, count, 41.0, OTHER), stored))
    assert step is not None
    assert step[1] is not None
    assert step[1].endswith(f" --runs {asked}")


def test_a_pass_asks_for_nothing(synthetic_record) -> None:
    assert next_step(CaseResult(Verdict("pass", "grok1-40b", "PASS"))) is None


def test_a_strangers_case_is_in_no_command(synthetic_record) -> None:
    for state in ("void", "missing", "fail", "inconclusive", "no_baseline", "improved"):
        step = next_step(CaseResult(Verdict(state, "$(rm -rf /)", "words")))
        assert step is not None
        assert step[1] is None


@pytest.mark.parametrize("line", ["ab", "baseline record", "doctor"])
def test_the_commands_exist(line: str) -> None:
    """Their options are held by the tests of those commands."""
    shown = subprocess.run([sys.executable, "-m", "bench", *line.split(), "--help"], capture_output=True, text=True)
    assert shown.returncode == 0

"""`pytest bench/ --benchmark` as CI runs it: what it skips, judges, writes and exits with."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.cases import CASES, select
from bench.judge.baseline import BaselineFile, recorded_baseline
from bench.records.record import Record
from grok1.config.load import ONE_RANK, load_recipe
from tests.limits import HANG_SECONDS
from tests.lines import NO_NPU

ROOT = Path(__file__).parents[2]
ON_ONE_RANK = [word for override in ONE_RANK for word in ("--set", override)]


def bench(*words: str, where: str = "bench/", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", where, "-p", "no:cacheprovider", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, **variables},
        timeout=HANG_SECONDS,
    )


def nano(results: Path, *words: str, where: str = "bench/", **variables: str) -> subprocess.CompletedProcess[str]:
    """The pretraining case on one rank, six steps."""
    options = ["--case", "grok1-nano", "--device", "cpu", "--steps", "6", "--results", str(results), *ON_ONE_RANK]
    return bench("-k", "test_pretrain", "--benchmark", *options, *words, where=where, **variables)


def records_in(results: Path) -> list[Record]:
    return [Record.read(path) for path in sorted((results / "records").glob("*.json"))]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    results = tmp_path_factory.mktemp("first")
    summary, table = results / "summary.md", results / "table.json"
    words = ["--baselines", str(results / "none"), "--benchmark-json", str(table)]
    (results / "none").mkdir()
    return nano(results, *words, GITHUB_STEP_SUMMARY=str(summary)), results


def test_without_the_option_nothing_runs_and_it_says_why() -> None:
    done = bench()
    assert done.returncode == 0
    assert "benchmarks run only with --benchmark" in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--junitxml", "results/report/report.json"], "--junitxml results/report/report.json is a name that this"),
        (["--junitxml", "results/history.jsonl"], "uses in --results results; give the output another name"),
        (["--junitxml", "one.json"], "--junitxml one.json is also --recipe one.json, which would be lost;"),
        (["--junitxml", "stored/stored.json"], "stored/stored.json is a file of --baselines stored, and would be"),
        (["--junitxml", "table", "--benchmark-json", "table"], "table are one file, which can hold one;"),
    ],
)
def test_a_file_of_pytests_takes_no_place_of_ours(words: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "stored.json").write_text('{"schema": 1, "baselines": []}')
    (tmp_path / "one.json").write_text("{}")
    places = ["--results", "results", "--baselines", "stored", "--recipe", "one.json", *words]
    places = [str(tmp_path / word) if index % 2 else word for index, word in enumerate(places)]
    done = bench("--benchmark", "--case", "grok1-nano", *places, where="bench/test_pretrain.py")
    assert done.returncode == 4
    assert told in (done.stdout + done.stderr).replace(f"{tmp_path}/", "")
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "one.json").read_text() == "{}"


def test_a_file_of_pytests_takes_no_place_of_ours_outside_a_clone(tmp_path: Path) -> None:
    """With --pyargs the options are judged when modules are collected."""
    report = tmp_path / "results" / "report" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text("a report")
    words = ["-p", "no:cacheprovider", "--benchmark", "--case", "grok1-nano", "--results", "results"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "bench", *words, "--junitxml", "results/report/report.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 4, done.stdout
    assert "--junitxml results/report/report.json is a name that this command uses in --results results" in (
        done.stdout + done.stderr
    )
    assert report.read_text() == "a report"


def test_a_module_that_cannot_be_imported_is_no_interruption(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    done = bench("--benchmark", "-p", "bench.options", where=str(tmp_path / "test_broken.py"))
    assert done.returncode == 2
    assert "No module named 'no_such_module'" in done.stdout
    assert "interrupted; all processes were ended" not in done.stdout


def test_a_refusal_is_one_where_a_table_was_asked_for_too(tmp_path: Path) -> None:
    words = ["--benchmark", "--case", "no-such", "--benchmark-json", str(tmp_path / "table.json")]
    done = bench(*words, "--results", str(tmp_path / "results"), where="bench/test_pretrain.py")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_without_a_baseline_passes_and_says_so_first(
    first_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, results = first_run
    assert done.returncode == 0, done.stdout
    report = (results / "report" / "report.md").read_text()
    assert report.startswith("# NO BASELINE: grok1-nano ran at ")
    assert "NO BASELINE: grok1-nano ran at " in done.stdout
    assert "NO BASELINE" in (results / "summary.md").read_text()
    for plot in (results / "report").glob("*.svg"):
        assert f"({plot.name})" in report


def test_its_record_holds_every_step_of_every_rank_and_where_it_came_from(
    first_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    (record,) = records_in(first_run[1])
    recipe = load_recipe("grok1-nano", ONE_RANK)
    assert record.valid
    assert len(record.ranks[0].step_seconds) == 6
    assert len(record.ranks[0].memory_bytes) == 6
    assert 0.5 * record.ranks[0].host_bytes < min(record.ranks[0].memory_bytes)
    assert max(record.ranks[0].memory_bytes) < 1.1 * record.ranks[0].peak_bytes
    assert (record.recipe.hash, record.recipe.resolved) == (recipe.hash(), recipe.resolved())
    assert {"python", "torch", "megatron_core"} <= record.software.keys()
    assert record.environment["OMP_NUM_THREADS"]
    assert record.work.tokens_per_step == recipe.tokens_per_step
    assert record.ranks[0].collectives == {}  # of one rank: nothing moves
    assert record.ranks[0].timeline[-1].phase == "report"
    assert record.asked == ["--steps=6", *(f"--set={each}" for each in ONE_RANK)]
    report = (first_run[1] / "report" / "report.md").read_text()
    assert all(f" --set={each} " in report for each in ONE_RANK)  # in the command that comes next


def test_its_steady_steps_are_in_pytest_benchmarks_json(
    first_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    table: dict[str, Any] = json.loads((first_run[1] / "table.json").read_text())
    (row,) = table["benchmarks"]
    (record,) = records_in(first_run[1])
    assert set(row["stats"]["data"]) <= set(record.ranks[0].step_seconds)
    assert row["extra_info"]["record_ids"] == [record.id]


@pytest.mark.slow
def test_a_missing_baseline_fails_where_one_is_required(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = nano(tmp_path, "--require-baseline", "--baselines", str(tmp_path / "none"))
    assert done.returncode == 1


def test_a_slower_run_fails_and_the_sentence_is_in_the_junit_file(
    first_run: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    (record,) = records_in(first_run[1])
    # the same run, said to have been a hundred times as fast
    content = json.loads(record.model_dump_json(by_alias=True))
    for rank in content["ranks"]:
        rank["step_seconds"] = [seconds / 100 for seconds in rank["step_seconds"]]
        rank["phases_seconds"] = {}
        rank["communication_seconds"] = rank["communication_calls"] = rank["communication_bytes"] = []
    faster = Record.model_validate(content)
    stored = recorded_baseline([faster], "made faster than it was, so that the next run fails")
    BaselineFile(schema=1, baselines=[stored]).write(tmp_path / "baselines" / "cpu" / "grok1-nano.json")
    words = ["--baselines", str(tmp_path / "baselines"), "--junitxml", str(tmp_path / "out.xml")]
    done = nano(tmp_path, *words, where="bench/test_pretrain.py")  # all of bench/ takes seconds to import
    assert done.returncode == 1
    junit = ElementTree.parse(tmp_path / "out.xml").getroot()
    failure = junit.find(".//failure")
    assert failure is not None
    figures = {each.get("name"): each.get("value") for each in junit.iterfind("testsuite/properties/property")}
    assert (figures["grok1-nano.verdict"], figures["grok1-nano.runs"]) == ("fail", "1")
    assert float(str(figures["grok1-nano.step_seconds"])) > 0
    for part in ("FAIL", "grok1-nano", "tokens/s/p", "%"):
        assert part in str(failure.get("message"))
    assert (tmp_path / "report" / "report.md").read_text().startswith("# FAIL")


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_voids_the_run(tmp_path: Path) -> None:
    wild = ["--set", "training.learning_rate=1e30", "--set", "training.min_learning_rate=0.0"]
    done = nano(tmp_path, *wild, "--set", "training.clip_grad=0.0")
    assert done.returncode == 1, done.stdout
    (record,) = records_in(tmp_path)
    assert not record.valid
    assert any("is not finite" in reason for reason in record.void_reasons)
    assert "VOID" in done.stdout


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--case", "grok2"], 2, "unknown case 'grok2'; choose from grok1-tiny"),
        (["--case", "grok1-tinny"], 2, "unknown case 'grok1-tinny'; did you mean grok1-tiny"),
        (["--wait-for-quiet", "-1"], 2, "--wait-for-quiet -1 is not within 0 to 3600 seconds"),
        (["--plant-slowdown", "-1"], 2, "grok1-nano: --plant-slowdown -1 is not within 0 to 1000 percent"),
        (["--device-profile", "grok2"], 2, "unknown device 'grok2'"),
        (["--results", "/dev/null/x"], 2, "--results /dev/null/x: cannot be written"),
        (["--index-cache", "/dev/null"], 2, "--index-cache /dev/null: cannot be written"),
        (["--collective-timeout", "nan"], 2, "--collective-timeout nan is not within 1 to 604800 seconds"),
        (["--start-timeout", "-1"], 2, "--start-timeout -1 is not within 0 to 604800 seconds"),
        (["--master-port", "99999"], 2, "--master-port 99999 is not within 1 to 65535"),
        (["--nproc-per-node", "0"], 2, "--nproc-per-node 0 is not at least 1"),
        (["--recipe", "grok2"], 2, "unknown recipe 'grok2'"),
        (["--set", "parallel.tensor=3"], 2, "is not a multiple of"),
        (["--baselines", "nowhere"], 2, "nowhere"),
        (["--steps", "0"], 2, "--steps 0 is not positive"),
        (["--steps", "2", "--steps=3"], 4, "--steps is given 2 times, and only one can count; give it once"),
        (["--device", "npu"], 2, NO_NPU),
        (["--nnodes", "3"], 2, "3 nodes x 5 processes are not the recipe's 16 ranks"),
        (["--runs", "0"], 2, "grok1-nano: --runs 0 measures nothing; give at least 1"),
        (["--confirm", "-1"], 2, "--confirm -1 needs a positive number"),
        (["--tokenizer", "nowhere"], 2, "--tokenizer nowhere without --data"),
        (["--tokenizer", "nowhere", "--data", "nowhere"], 2, "tokenizer nowhere does not exist"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words: list[str], code: int, complaint: str, tmp_path: Path) -> None:
    """Of all of bench/, whose other benchmarks take minutes."""
    results = [] if "--results" in words else ["--results", str(tmp_path)]
    done = bench("--benchmark", "--case", "grok1-nano", *results, *words)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert complaint in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 20
    assert "%]" not in said  # no benchmark began
    assert not (tmp_path / "records").exists()


@pytest.mark.slow
def test_on_several_nodes_all_but_the_main_job_say_why_they_are_skipped(tmp_path: Path) -> None:
    words = ["--case", "grok1-nano", "--device", "cpu", "--nnodes", "2", "--node-rank", "1", "--start-timeout", "0.1"]
    everything = ("--benchmark", "--parts", "--ledgers", "--harness")
    done = bench(*everything, "--results", str(tmp_path), "--set", "model.num_layers=4", *words)
    assert done.returncode == 2, done.stdout
    assert "grok1-nano: node 1 found no node 0 at 127.0.0.1 port 29500 within 0.1 s" in done.stdout + done.stderr
    for name in ("attention", "generate", "judging", "ledger", "ops"):
        assert f"bench/test_{name}.py" in done.stdout
    assert done.stdout.count("runs on one machine; --nnodes 2 is for bench/test_pretrain.py") >= 5
    assert "passed" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "files"),
    [
        ([], {"pretrain"}),
        (["--ledgers"], {"pretrain", "ledger"}),
        (["--parts"], {"attention", "generate", "ops", "pretrain"}),
        (["--harness"], {"pretrain", "judging", "overhead"}),
        (["--peers", "--plan"], {"pretrain", "peers", "plan"}),
        (["bench/test_judging.py"], {"pretrain", "judging"}),
    ],
)
def test_a_case_means_that_case_alone(words: list[str], files: set[str]) -> None:
    done = bench("--benchmark", "--collect-only", "-q", "--case", "grok1-nano", *words)
    assert {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line} == {
        f"bench/test_{name}.py" for name in files
    }


@pytest.mark.slow
def test_parts_of_one_recipe_are_not_timed_on_anothers_corpus(tmp_path: Path) -> None:
    done = bench("-k", "test_embedding or test_optimizer", "--benchmark", "--tokenizer", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with --data and --tokenizer, give --recipe too" in done.stdout


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_row_of_the_table_names_a_shipped_recipe(case: Any) -> None:
    assert load_recipe(case.recipe).name == case.recipe
    assert case.steps > 3
    assert case.runs >= 1


def test_a_case_that_is_named_twice_runs_once() -> None:
    assert [case.name for case in select(["grok1-nano", "grok1-tiny", "grok1-nano"], "cpu")] == [
        "grok1-nano",
        "grok1-tiny",
    ]


def test_each_device_has_a_case_of_its_own() -> None:
    assert {device: [case.name for case in select(None, device)] for device in ("cpu", "cuda", "npu")} == {
        "cpu": ["grok1-tiny"],
        "cuda": ["grok1-40b-tuned"],
        "npu": ["grok1-40b"],
    }


@pytest.mark.slow
def test_progress_is_live_on_a_terminal(tmp_path: Path) -> None:
    """pytest captures what tests print; the bar must reach the terminal all the same, and only a terminal."""
    terminal, side = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI", "NO_COLOR")}
    words = ["bench/test_pretrain.py", "--benchmark", "--case", "grok1-nano", "--device", "cpu", "--steps", "20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, "--results", str(tmp_path), *ON_ONE_RANK],
        cwd=ROOT,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends whose other side was closed
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    assert process.wait(timeout=HANG_SECONDS) == 0
    assert b"starting ranks" in shown
    assert b"s/step" in shown


def test_no_progress_in_a_pipe(first_run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, _ = first_run
    assert "starting ranks" not in done.stdout + done.stderr


# ---- judged together, with a second look -----------------------------------------------------------------


def _sessions(tmp_path: Path, records: list[Record], baselines: list[Any], confirm: int) -> Any:
    """A session of one case that has these records."""
    from bench.session import BenchSession

    options = {"--confirm": confirm, "--case": ["grok1-40b"], "--device": "npu", "--baselines": str(tmp_path)}
    options |= {"--nnodes": 1, "--node-rank": 0, "--master-addr": "", "--master-port": 1, "--nproc-per-node": None}
    config = type("Config", (), {"getoption": lambda self, name: options.get(name)})()
    session = BenchSession(config)
    session.records = list(records)
    if baselines:
        BaselineFile(schema=1, baselines=baselines).write(tmp_path / "npu" / "grok1-40b.json")
    return session


def _runs(synthetic_record: Any, factors: list[float], first: int) -> list[Record]:
    return [
        synthetic_record(seed=first + index, median_seconds=39.8 * factor, noise=0.0)
        for index, factor in enumerate(factors)
    ]


def test_a_doubtful_case_gets_more_runs_once_and_all_runs_are_judged_together(
    tmp_path: Path, synthetic_record: Any
) -> None:
    stored = recorded_baseline(_runs(synthetic_record, [1.0, 1.04, 0.97, 1.02, 0.98], 0), "invented")
    session = _sessions(tmp_path, _runs(synthetic_record, [1.0, 1.1, 1.0], 10), [stored], confirm=4)
    asked: list[int] = []

    def run_more(case: Any, runs: int) -> None:
        asked.append(runs)
        session.records += _runs(synthetic_record, [1.0, 1.01, 0.99, 1.0], 20)

    verdict = session.settle(run_more)["grok1-40b"]
    assert asked == [4]
    assert "7 runs against 5" in verdict.sentence
    assert session.settle(run_more)["grok1-40b"] is verdict
    assert asked == [4], "there is no third look"


@pytest.mark.parametrize(("factors", "state"), [([1.0, 1.001, 0.999], "pass"), ([1.3, 1.301, 1.299], "fail")])
def test_a_sure_case_gets_no_more_runs(tmp_path: Path, synthetic_record: Any, factors: list[float], state: str) -> None:
    stored = recorded_baseline(_runs(synthetic_record, [1.0, 1.001, 0.999, 1.002, 0.998], 0), "invented")
    session = _sessions(tmp_path, _runs(synthetic_record, factors, 10), [stored], confirm=4)
    assert session.settle(lambda case, runs: pytest.fail("ran more"))["grok1-40b"].state == state


def test_confirming_needs_one_machine(tmp_path: Path) -> None:
    session = _sessions(tmp_path, [], [], confirm=-1)
    with pytest.raises(ValueError, match="--confirm -1 needs a positive number"):
        session.confirm_runs()


def test_the_default_number_of_runs_fails_what_is_a_quarter_slower(tmp_path: Path, synthetic_record: Any) -> None:
    """One run decides nothing, however slow it is."""
    stored = recorded_baseline(_runs(synthetic_record, [1.0, 1.01, 0.99, 1.012, 0.988], 0), "invented")
    slower = _runs(synthetic_record, [1.28, 1.27, 1.29, 1.28, 1.27, 1.29, 1.28, 1.27, 1.29, 1.28], 10)
    session = _sessions(tmp_path, slower[:1], [stored], confirm=0)
    assert session.settle(lambda case, runs: None)["grok1-40b"].state == "inconclusive"
    planned = session.planned(slower[0])
    assert planned.can_pass
    assert planned.sentence.startswith(f"grok1-40b: {planned.runs} runs decide against ")
    session = _sessions(tmp_path, slower[: planned.runs], [], confirm=0)
    assert session.settle(lambda case, runs: None)["grok1-40b"].state == "fail"

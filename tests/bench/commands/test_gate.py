"""`python -m bench gate`, through files: exit codes, what is printed, and what a CI service reads."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.judge.baseline import BaselineFile, load_baselines, recorded_baseline
from tests.bench.judge.test_gate import published
from tests.in_process import Command

SECONDS = 39.8


def runs(synthetic_record, count: int = 5, first: int = 1, seconds: float = SECONDS, **changes: Any) -> list[Any]:
    between = 1 + 0.003 * np.random.default_rng(first).standard_normal(count)
    return [
        synthetic_record(seed=first + index, noise=0.002, median_seconds=float(seconds * between[index]), **changes)
        for index in range(count)
    ]


def write(records: list[Any], folder: str) -> str:
    Path(folder).mkdir(exist_ok=True)
    for record in records:
        record.write(Path(folder) / f"{record.case.replace('/', '_')[:20]}-{record.id}.json")
    return folder


def store(records: list[Any], name: str = "one", **changes: Any) -> None:
    baseline = recorded_baseline(records, "to test with").model_copy(update=changes)
    BaselineFile(schema=1, baselines=[baseline]).write(Path(f"baselines/{name}.json"))


def outcomes(path: str) -> dict[str, str]:
    """By case: passed, failure or skipped."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    return {
        str(case.get("name")): next((each.tag for each in case if each.tag != "system-out"), "passed") for case in cases
    }


def test_record_promote_gate_and_every_way_out(bench: Command, synthetic_record) -> None:
    assert bench("baseline", "record", write(runs(synthetic_record), "base"), "-o", "candidate.json")[0] == 0
    assert bench("baseline", "promote", "candidate.json", "--rationale", "first")[0] == 0
    same = write(runs(synthetic_record, 3, first=11), "same")
    code, output, _ = bench("gate", same, "--require-baseline")
    assert code == 0
    assert output.startswith("PASS: grok1-40b takes ")
    slower = write(runs(synthetic_record, 3, first=11, seconds=1.05 * SECONDS), "slower")
    code, output, _ = bench("gate", slower)
    assert code == 1
    assert output.startswith("FAIL: grok1-40b takes 5.")
    assert " % more time per step than in its baseline (98 % confidence interval +" in output
    faster = write(runs(synthetic_record, 3, first=11, seconds=0.9 * SECONDS), "faster")
    code, output, _ = bench("gate", faster)
    assert (code, output.split(":")[0]) == (0, "IMPROVED")
    other = write(runs(synthetic_record, 3, first=11, software={"python": "3.10.0", "torch": "2.8.0"}), "other")
    code, output, _ = bench("gate", other)
    assert code == 0
    assert "software.torch 2.8.0 (baseline 2.7.1)" in output
    assert bench("gate", other, "--require-baseline")[0] == 1
    label = load_baselines(Path("baselines"))[0].label
    assert bench("baseline", "retire", label, "--rationale", "gone")[0] == 0
    code, output, _ = bench("gate", slower)
    assert code == 0
    loudly, sentence = output.splitlines()[:2]
    assert loudly == "NOTHING WAS DECIDED about grok1-40b (no baseline), and --require-verdict would fail it"
    assert sentence.startswith("NO BASELINE: grok1-40b ran at")
    assert bench("gate", slower, "--require-baseline")[0] == 1


def test_one_run_in_doubt_is_skipped_and_not_passed(bench: Command, synthetic_record) -> None:
    store(runs(synthetic_record))
    one = write(runs(synthetic_record, 1, first=11, seconds=1.2 * SECONDS), "one")
    code, output, _ = bench("gate", one, "--junitxml", "out.xml", "--json", "out.json")
    assert (code, output.splitlines()[1].split(":")[0]) == (0, "INCONCLUSIVE")
    assert outcomes("out.xml") == {"grok1-40b": "skipped"}
    code, _, _ = bench("gate", one, "--junitxml", "out.xml", "--require-baseline")
    assert code == 1
    assert outcomes("out.xml") == {"grok1-40b": "failure"}


def test_the_worst_comes_first_and_all_rows_follow(bench: Command, synthetic_record) -> None:
    store(runs(synthetic_record))
    store(runs(synthetic_record, case="slow"), "slow", label="slow's")
    store(runs(synthetic_record, case="gone"), "gone", label="gone's")
    write(runs(synthetic_record, 3, first=11), "all")
    write(runs(synthetic_record, 3, first=21, case="slow", seconds=1.1 * SECONDS), "all")
    write(runs(synthetic_record, 3, first=31, case="new", recipe={"name": "new"}), "all")
    write([synthetic_record(seed=99, case="bad", valid=False, void_reasons=["loss is not finite"])], "all")
    code, output, _ = bench("gate", "all", "--json", "a/b/out.json", "--junitxml", "c/out.xml")
    assert code == 1
    said = output.split("\n\n")[0].splitlines()
    assert [each.split(":")[0] for each in said] == ["VOID", "FAIL", "MISSING", "NO BASELINE", "PASS"]
    table = output.split("\n\n")[1].splitlines()
    assert any("slow  " in row and "s/step" in row and " fail " in row and "slow's" in row for row in table)
    assert any("peak memory" in row and "52.000 GiB" in row for row in table)
    assert any("forward " in row and " % of a step" in row for row in table)
    assert outcomes("c/out.xml") == {
        "bad": "failure", "slow": "failure", "gone": "failure", "new": "skipped", "grok1-40b": "passed"
    }  # fmt: skip
    written = json.loads(Path("a/b/out.json").read_text())
    assert written["exit_code"] == 1
    assert [each["state"] for each in written["verdicts"]] == ["void", "fail", "missing", "no_baseline", "pass"]
    slow = written["verdicts"][1]
    assert slow["attribution"]["parts"][0]["name"] == "backward"
    row = next(row for row in slow["rows"] if row["metric"] == "step_seconds")
    assert row["evidence"]["low_percent"] < row["change_percent"] == pytest.approx(10, abs=0.6)


def test_no_records_are_a_failure_and_not_a_pass(bench: Command, synthetic_record) -> None:
    Path("empty").mkdir()
    for words in ([], ["--expect", "grok1-40b"]):
        code, output, _ = bench("gate", "empty", *words, "--junitxml", "out.xml", "--json", "out.json")
        assert code == 1
        assert "no records in empty" in output
        assert set(outcomes("out.xml").values()) == {"failure"}
    assert set(outcomes("out.xml")) == {"grok1-40b", "all cases"}


def test_a_baseline_s_own_runs_are_remarked(bench: Command, synthetic_record) -> None:
    store(runs(synthetic_record))
    assert (
        "5 of these runs belong to a baseline that judges them"
        in bench("gate", write(runs(synthetic_record), "own"))[2]
    )
    assert bench("gate", write(runs(synthetic_record, first=11), "others"))[2] == ""


def test_a_baseline_s_own_runs_do_not_hide_a_slowdown_of_others(bench: Command, synthetic_record) -> None:
    own, slower = runs(synthetic_record), runs(synthetic_record, 3, first=11, seconds=1.05 * SECONDS)
    store(own)
    alone = bench("gate", write(slower, "slower"))
    assert alone[0] == 1
    code, output, errors = bench("gate", write([*own, *slower], "all"))
    assert (code, output) == alone[:2]
    assert "note: 5 of these runs are left out: the baseline that judges the others is made of them" in errors


def test_a_recorded_baseline_that_new_software_puts_aside_is_named(bench: Command, synthetic_record) -> None:
    store(runs(synthetic_record), label="stored")
    BaselineFile(schema=1, baselines=[published()]).write(Path("baselines/published.json"))
    software = synthetic_record().software | {"torch": "2.99"}
    code, output, _ = bench("gate", write(runs(synthetic_record, 3, first=11, software=software), "new"))
    assert code == 0
    assert output.startswith("PASS: ")
    assert "Also: stored was not compared: software.torch 2.99 (baseline " in output


def test_an_expected_case_without_a_run_fails(bench: Command, synthetic_record) -> None:
    records = write(runs(synthetic_record, 3), "records")
    code, output, _ = bench("gate", records, "--expect", "grok1-40b", "--expect", "renamed")
    assert code == 1
    assert "MISSING: renamed" in output
    assert "MISSING: grok1-40b" not in output
    assert bench("gate", records, "--expect", "grok1-40b")[0] == 0


def test_a_run_given_twice_is_refused(bench: Command, synthetic_record) -> None:
    folder = write(runs(synthetic_record, 3), "records")
    one = sorted(Path(folder).iterdir())[0]
    code, _, errors = bench("gate", folder, one)
    assert code == 2
    assert "give each run once" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a usable JSON file"),
        ('{"schema": 1', "not a usable JSON file"),
        ("[" * 100_000, "not a usable JSON file"),
        ("null", "bad.json"),
        ('{"schema": 1, "baselines": []}', "bad.json"),
        ("1" * 10_000, "bad.json"),
        (f'{{"startup_seconds": {10**400}}}', "bad.json"),
        ('{"id": NaN}', "NaN is not a JSON number"),
        ('{"id": 1, "id": 2}', "repeated"),
        ('{"\\u001b[31m": 1}', "bad.json"),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_one_line(bench: Command, content: str, words: str) -> None:
    Path("bad.json").write_text(content)
    code, output, errors = bench("gate", "bad.json")
    assert (code, output) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert "\x1b" not in errors


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{}]},
        {"startup_seconds": 10**300},
        {"work": {"tokens_per_step": 2**63}},
        {"ranks": "many"},
        {"valid": "true"},
        {"recipe": {"name": "x", "hash": "not hex!", "resolved": {}}},
    ],
)
def test_a_record_of_wrong_types_or_huge_numbers_is_refused(
    bench: Command, synthetic_record, change: dict[str, Any]
) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    Path("bad.json").write_text(json.dumps(content | change))
    code, _, errors = bench("gate", "bad.json")
    assert code == 2
    assert errors.startswith(f"bench: bad.json: {next(iter(change))}")
    assert len(errors.splitlines()) == 1


def test_times_beyond_all_reason_end_in_a_verdict(bench: Command, synthetic_record) -> None:
    """Each is a legal record; together they are nothing that anybody measured."""
    unknown = {"peak_flops_per_second": None, "peak_source": None}
    store(runs(synthetic_record, device=unknown))
    for index, (seconds, peak) in enumerate(((1e-9, 1), (1e7, 2**62), (1e-9, 2**62), (1e7, 1))):
        changes = {"step_seconds": [seconds] * 20, "phases_seconds": {}, "peak_bytes": peak}
        ranks = [each.model_dump() | changes for each in synthetic_record().ranks]
        write([synthetic_record(seed=90 + index, ranks=ranks, device=unknown)], "odd")
    code, output, errors = bench("gate", "odd", "--json", "out.json", "--junitxml", "out.xml")
    assert (code, errors) == (0, "")
    assert output.splitlines()[1].startswith("INCONCLUSIVE")
    assert json.loads(Path("out.json").read_text())["verdicts"][0]["state"] == "inconclusive"


def test_numbers_that_overflow_are_one_line(bench: Command, synthetic_record, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes thousands of such cases in one family to get there."""

    def overflow(*given: object) -> None:
        math.expm1(1e3)

    monkeypatch.setattr("bench.commands.gate.judge_suite", overflow)
    code, _, errors = bench("gate", write(runs(synthetic_record, 1), "records"))
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "differ by more than a number can hold" in errors


def test_words_of_strangers_reach_the_terminal_and_the_files_harmless(bench: Command, synthetic_record) -> None:
    case = "<b>|x|\x1b[31m\u202e`${{ }}`"
    store(runs(synthetic_record, case=case), label="\x1b]0;title\x07<script>|")
    write(runs(synthetic_record, 3, first=11, case=case), "records")
    code, output, errors = bench("gate", "records", "--json", "out.json", "--junitxml", "out.xml")
    assert code == 0, errors
    assert not any(char in output for char in "\x1b\x07\u202e")
    assert json.loads(Path("out.json").read_text())["verdicts"][0]["case"] == case
    assert len(outcomes("out.xml")) == 1


def test_files_that_cannot_be_written_are_one_line(bench: Command, synthetic_record) -> None:
    Path("file").write_text("")
    records = write(runs(synthetic_record, 1), "records")
    for option in ("--json", "--junitxml"):
        code, _, errors = bench("gate", records, option, "file/out")
        assert code == 2
        assert "file/out cannot be written" in errors
    code, _, errors = bench("gate", records, "--baselines", "nowhere")
    assert code == 2
    assert "no such folder" in errors


def test_neither_command_needs_torch(synthetic_record, tmp_path: Path) -> None:
    synthetic_record().write(tmp_path / "run.json")
    (tmp_path / "baselines").mkdir()
    program = (
        "import sys\n"
        "from bench.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as done:\n"
        "    loaded = {'torch', 'megatron', 'transformers', 'pytest'} & {*sys.modules}\n"
        "    sys.exit(f'loads {loaded}' if loaded else done.code)\n"
    )
    for words in (["gate", "run.json"], ["baseline", "list"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words, "--baselines", "baselines"],
            cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_refused_gate_leaves_no_verdict_of_before(bench: Command, synthetic_record) -> None:
    """A service that reads the file would show it as this one's."""
    records = write(runs(synthetic_record), "records")
    assert bench("gate", records, "--json", "out.json", "--junitxml", "out.xml")[0] == 0
    Path(records, "broken.json").write_text("{")
    assert bench("gate", records, "--json", "out.json", "--junitxml", "out.xml")[0] == 2
    assert not Path("out.json").exists()
    assert not Path("out.xml").exists()


@pytest.mark.parametrize("line", ["gate records --no-such", "gate", "gate records --json again.json"])
def test_a_command_line_that_is_refused_leaves_no_verdict_of_before(
    line: str, bench: Command, synthetic_record
) -> None:
    records = write(runs(synthetic_record), "records")
    words = ["--json", "out.json", "--junitxml=out.xml"]
    assert bench("gate", records, *words)[0] == 0
    assert bench(*line.split(), *words)[0] == 2
    assert not Path("out.json").exists()
    assert not Path("out.xml").exists()


@pytest.mark.parametrize(
    ("line", "content"),
    [
        ("nightly check no-such --json out.json", {"schema": 1, "cases": [{"is_alarm": False}]}),
        ("nightly check --no-such --json=out.json", {"schema": 1, "cases": [{"is_alarm": False}]}),
        ("doctor --recipe no-such --json out.json", {"schema": 1, "findings": []}),
        ("doctor --no-such --json out.json", {"schema": 1, "findings": []}),
        ("ab --base HEAD --case no-such --json out.json", {"schema": 1, "family_error": 0.01}),
        ("ab --base HEAD --json out.json", {"schema": 1, "family_error": 0.01}),
    ],
)
def test_what_answers_in_json_leaves_no_answer_of_before(line: str, content: object, bench: Command) -> None:
    Path("out.json").write_text(json.dumps(content))
    assert bench(*line.split())[0] == 2
    assert not Path("out.json").exists()


def test_help_leaves_the_verdicts_of_before(bench: Command, synthetic_record) -> None:
    records = write(runs(synthetic_record), "records")
    assert bench("gate", records, "--json", "out.json")[0] == 0
    assert bench("gate", "--json", "out.json", "--help")[0] == 0
    assert Path("out.json").exists()


def test_a_refused_command_line_removes_nothing_but_verdicts(bench: Command, synthetic_record) -> None:
    records = write(runs(synthetic_record), "records")
    (record,) = list(Path(records).glob("*.json"))[:1]
    for given in (record, Path(records)):
        assert bench("gate", records, "--no-such", "--json", given, "--junitxml", given)[0] == 2
        assert given.exists()


def test_a_refused_gate_removes_nothing_but_verdicts(bench: Command, synthetic_record) -> None:
    records = write(runs(synthetic_record), "records")
    store(runs(synthetic_record))
    (record,) = list(Path(records).glob("*.json"))[:1]
    assert bench("gate", records, "--json", "out.json")[0] == 0
    Path("link.json").symlink_to("out.json")
    for given in (record, Path("baselines/one.json"), Path("link.json")):
        assert bench("gate", records, "--baselines", "no-such", "--json", given, "--junitxml", given)[0] == 2
        assert given.exists()
    assert Path("link.json").is_symlink()


def test_verdicts_of_one_case_have_names_of_their_own(bench: Command, synthetic_record) -> None:
    """By as few values as tell them apart, and by the device or the work where the recipes are equal."""
    resolved = synthetic_record().recipe.resolved
    for number, (a, b) in enumerate([(1, 1), (1, 2), (2, 1)]):
        model = {**resolved["model"], "a": a, "b": b, "long": "x" * 1000}
        recipe = {"hash": f"{number}" * 12, "resolved": {**resolved, "model": model}}
        write(runs(synthetic_record, 1, first=10 + number, recipe=recipe), "records")
    write(runs(synthetic_record, 1, first=20, recipe=recipe, device={"memory_bytes": 2**35}), "records")
    bench("gate", "records", "--junitxml", "out.xml")
    assert set(outcomes("out.xml")) == {
        f"grok1-40b (model.a={a}, model.b={b}, memory_bytes {size})"
        for a, b, size in ((1, 1, 2**36), (1, 2, 2**36), (2, 1, 2**36), (2, 1, 2**35))
    }


def test_several_verdicts_of_one_case_say_which_they_are(bench: Command, synthetic_record) -> None:
    """As of runs with --set in the folder of those without."""
    store(runs(synthetic_record))
    write(runs(synthetic_record, 3, first=11), "records")
    resolved = synthetic_record().recipe.resolved
    changed = {**resolved, "model": {**resolved["model"], "num_layers": 4}}
    changed["training"] = {**resolved["training"], "dtype": "fp16"}
    other: dict[str, Any] = {"recipe": {"hash": "f" * 12, "resolved": changed}, "device": {"dtype": "fp16"}}
    write(runs(synthetic_record, 3, first=21, **other), "records")
    code, output, _ = bench("gate", "records", "--junitxml", "out.xml")
    lines = [line for line in output.splitlines() if line.startswith(("PASS", "NO BASELINE"))]
    assert [line.partition(")")[0] for line in lines] == [
        "NO BASELINE: grok1-40b (model.num_layers=4",
        "PASS: grok1-40b (model.num_layers=8",
    ]
    assert code == 0
    assert len(outcomes("out.xml")) == 2
    bench("gate", write(runs(synthetic_record, 3, first=31), "alone"), "--junitxml", "out.xml")
    assert list(outcomes("out.xml")) == ["grok1-40b"]

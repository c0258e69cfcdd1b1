"""`python -m reports` as a pipeline calls it: exit codes and one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from bench.judge.baseline import BaselineFile, recorded_baseline
from reports import __main__
from tests.in_process import command_of

BASELINES = str(Path(__file__).parents[2] / "baselines")


@pytest.fixture
def records(synthetic_record, tmp_path: Path) -> Path:
    synthetic_record().write(tmp_path / "records" / "good.json")
    return tmp_path / "records"


class Ended(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """call(words..., VARIABLE=value): how the command ends."""

    def called(*words: object, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Ended(*command_of("reports", __main__.main, monkeypatch, capsys)(*words))

    return called


def test_a_pass_exits_zero_and_says_where_the_report_is(
    call: Call, records: Path, tmp_path: Path, without_plots
) -> None:
    result = call(records, "-o", tmp_path / "out", "--baselines", BASELINES)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("PASS: grok1-40b")
    assert (tmp_path / "out" / "report.md").exists()


def test_a_run_given_twice_is_refused(call: Call, records: Path, tmp_path: Path) -> None:
    (records / "again.json").write_bytes((records / "good.json").read_bytes())
    result = call(records, "-o", tmp_path / "out", "--baselines", BASELINES)
    assert result.exit_code == 2
    assert "give each run once" in result.stderr


def test_runs_of_the_baseline_beside_others_are_left_out(
    call: Call, synthetic_record, tmp_path: Path, without_plots
) -> None:
    own = [synthetic_record(seed=seed, noise=0.003) for seed in range(5)]
    BaselineFile(schema=1, baselines=[recorded_baseline(own, "invented")]).write(tmp_path / "baselines" / "own.json")
    for each in (*own, *(synthetic_record(seed=seed, noise=0.003, median_seconds=43.0) for seed in range(10, 13))):
        each.write(tmp_path / "records" / f"{each.id}.json")
    result = call(tmp_path / "records", "-o", tmp_path / "out", "--baselines", tmp_path / "baselines")
    assert result.exit_code == 1
    assert "5 of these runs are left out" in result.stderr
    assert "3 runs" in (tmp_path / "out" / "report.md").read_text()


def test_a_fail_exits_one_with_its_report_written(call: Call, synthetic_record, tmp_path: Path) -> None:
    synthetic_record(median_seconds=50.0).write(tmp_path / "slow.json")
    result = call(tmp_path / "slow.json", "-o", tmp_path / "out", "--baselines", BASELINES)
    assert result.exit_code == 1
    assert (tmp_path / "out" / "report.md").read_text().startswith("# FAIL")


def test_a_missing_baseline_fails_only_on_request(call: Call, records: Path, tmp_path: Path, without_plots) -> None:
    (tmp_path / "none").mkdir()
    arguments = (records, "-o", tmp_path / "out", "--baselines", tmp_path / "none")
    passed, failed = call(*arguments), call(*arguments, "--require-baseline")
    assert (passed.exit_code, failed.exit_code) == (0, 1)
    for done, follows in ((passed, "--require-verdict would fail it"), (failed, "which fails")):
        assert done.stdout.startswith("NOTHING WAS DECIDED about grok1-40b (no baseline), ")
        assert follows in done.stdout.splitlines()[0]


def test_the_step_summary_comes_from_the_environment(call: Call, records: Path, tmp_path: Path, without_plots) -> None:
    summary = tmp_path / "summary.md"
    call(records, "-o", tmp_path / "out", "--baselines", BASELINES, GITHUB_STEP_SUMMARY=str(summary))
    assert summary.read_text().startswith("# PASS")


def test_ctrl_c_is_one_line(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object, **options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "write_cases", interrupted)
    monkeypatch.setattr(sys, "argv", ["reports", str(records), "-o", str(tmp_path), "--baselines", BASELINES])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "reports: interrupted; all processes were ended\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "bad.json: not a usable JSON file"), ("{}", "bad.json: "), (None, "bad.json")],
)
def test_bad_input_exits_two_with_one_line(call: Call, tmp_path: Path, content: str | None, complaint: str) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    result = call(bad, "-o", tmp_path / "out", "--baselines", BASELINES)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.startswith("reports: ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_verdicts_are_in_a_junit_file_that_agrees_with_the_exit_code(
    call: Call, records: Path, tmp_path: Path, without_plots
) -> None:
    (tmp_path / "none").mkdir()
    arguments = (records, "-o", tmp_path / "out", "--baselines", tmp_path / "none", "--junitxml", tmp_path / "j.xml")
    for more, outcome, code in (((), "skipped", 0), (("--require-baseline",), "failure", 1)):
        assert call(*arguments, *more).exit_code == code
        (case,) = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
        assert [child.tag for child in case] == [outcome]


def test_a_ledger_is_reported_without_any_record(call: Call, tmp_path: Path) -> None:
    ledger = Path(BASELINES) / "ledger" / "grok1-nano.json"
    result = call("--ledger", ledger, "-o", tmp_path / "out", "--baselines", tmp_path / "not needed")
    assert result.exit_code == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.startswith("# Cost of a step: grok1-nano; no run was judged\n\n## Cost ledger: grok1-nano")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 2 * report.count("![") > 0  # one for a phone, too
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdicts"] == []


def test_nothing_at_all_is_bad_input(call: Call, tmp_path: Path) -> None:
    result = call("-o", tmp_path / "out", "--baselines", BASELINES)
    assert result.exit_code == 2
    assert result.stderr == "reports: nothing to report on: no record and no ledger\n"


def test_an_option_given_twice_is_refused(call: Call, records: Path, tmp_path: Path) -> None:
    result = call(records, "-o", tmp_path / "out", "-o", tmp_path / "other", "--baselines", BASELINES)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "reports: --output is given 2 times, and only one can count; give it once\n"
    assert not (tmp_path / "other").exists()


def test_an_empty_folder_and_absent_baselines_are_bad_input(call: Call, records: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert call(tmp_path / "empty", "-o", tmp_path / "out", "--baselines", BASELINES).exit_code == 2
    assert call(records, "-o", tmp_path / "out", "--baselines", tmp_path / "gone").exit_code == 2


def test_help_teaches(call: Call) -> None:
    result = call("--help")
    assert result.exit_code == 0
    for part in ("Example: python -m reports", "Exit code", "--baselines", "--require-baseline"):
        assert part in result.stdout

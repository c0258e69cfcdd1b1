"""`python -m bench gate` and `python -m reports` across sessions: the assumed level, and what cannot be settled."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.judge.baseline import BaselineFile, recorded_baseline
from reports.__main__ import main
from tests.bench.ab.test_settle import TWO_DAYS, runs_of
from tests.bench.history.test_session_level import histories
from tests.in_process import Command


@pytest.fixture
def records(bench: Command, synthetic_record: Any) -> Path:
    """3 % slower on another day than the stored baseline."""
    baseline = recorded_baseline(runs_of(synthetic_record, TWO_DAYS[0], 39.8, 1), "to test with")
    BaselineFile(schema=1, baselines=[baseline]).write(Path("baselines/one.json"))
    Path("records").mkdir()
    for each in runs_of(synthetic_record, TWO_DAYS[1], 41.0, 21):
        each.write(Path("records") / f"{each.id}.json")
    return Path("records")


def test_the_assumed_level_decides_what_is_a_suspicion(bench: Command, records: Path) -> None:
    code, output, _ = bench("gate", records)
    assert (code, output.splitlines()[1].split(":")[0]) == (0, "INCONCLUSIVE")
    code, output, _ = bench("gate", records, "--session-spread", "0.1")
    assert (code, output.split(":")[0]) == (1, "FAIL")
    assert "0.2 % between sessions, assumed" in output or "0.1 % between sessions, assumed" in output
    code, _, errors = bench("gate", records, "--session-spread", "99")
    assert code == 2
    assert errors.splitlines()[-1].startswith("bench: --session-spread '99': give a percentage from 0.01 to 50")
    code, _, errors = bench("gate", records, "--session-spread", "history")
    assert code == 2
    assert "there is no history at results/history.jsonl" in errors
    assert bench("history", "add", records)[0] == 0
    code, output, errors = bench("gate", records, "--session-spread", "history")
    assert (code, output.splitlines()[1].split(":")[0]) == (0, "INCONCLUSIVE")
    assert "note: grok1-40b: results/history.jsonl holds 0 sessions of it, and a level takes 5" in errors


def test_a_level_from_the_history_is_told_as_such(bench: Command, records: Path, synthetic_record: Any) -> None:
    histories(synthetic_record, [1.0, 1.01, 0.99, 1.01, 1.0], Path("history.jsonl"))
    code, output, errors = bench("gate", records, "--session-spread", "history.jsonl")
    assert (code, output.splitlines()[1].split(":")[0]) == (0, "INCONCLUSIVE")
    (told,) = re.findall(r"against 5 of another session, (.*?)\)", output)
    assert re.fullmatch(r"[0-9.]+ % between sessions, from the history", told)
    assert "by 5 sessions in history.jsonl" in errors


def test_what_cannot_run_again_stays_in_doubt_and_says_why(bench: Command, records: Path) -> None:
    code, output, _ = bench("gate", records, "--settle")
    assert code == 0
    first = output.splitlines()[1]
    assert first.startswith("INCONCLUSIVE: ")
    assert "--settle could not run A/B: the records are of another machine" in first
    assert bench("gate", records, "--settle", "--require-baseline")[0] == 1


def test_a_report_judges_by_the_same_level(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, code in (("5", 0), ("0.1", 1), ("none", 2)):
        words = ["reports", str(records), "-o", "report", "--session-spread", given]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    assert "reports: --session-spread 'none'" in capsys.readouterr().err

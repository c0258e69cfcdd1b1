"""`python -m bench baseline record` without records: it makes the runs, waits as asked, and keeps what it may."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import Command


class Pytest:
    """Stands in for the runs: leaves five records where they were asked for."""

    def __init__(self, records: list[Any]) -> None:
        self.records, self.code, self.words = records, 0, list[str]()

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.words = command
        results = next(Path(word.partition("=")[2]) for word in command if word.startswith("--results="))
        for record in self.records:
            record.write(results / "records" / f"{record.id}.json")
        return subprocess.CompletedProcess(command, self.code)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, synthetic_record) -> Pytest:
    made = Pytest([synthetic_record(seed=seed, noise=0.002, **CPU) for seed in range(1, 6)])
    monkeypatch.setattr(subprocess, "run", made)
    return made


CPU: dict[str, Any] = {"device": {"kind": "cpu", "name": "invented"}, "host": {"cores": 16, "others_cores": 0.1}}
BUSY: dict[str, Any] = {"device": {"kind": "cpu", "name": "invented"}, "host": {"cores": 16, "others_cores": 9.0}}


def test_it_runs_the_case_five_times_and_waits(bench: Command, ran: Pytest) -> None:
    code, printed, _ = bench("baseline", "record", "--case", "grok1-40b", "--set", "training.seed=3", "--steps", 20)
    assert code == 0
    assert {"--runs=5", "--wait-for-quiet=60", "--case=grok1-40b", "--set=training.seed=3", "--steps=20"} <= {
        *ran.words
    }
    assert printed.rstrip().splitlines()[-1].endswith("--rationale TEXT")


def test_a_corpus_is_found_from_any_folder(bench: Command, ran: Pytest) -> None:
    assert bench("baseline", "record", "--case", "grok1-40b", "--data", "text", "--tokenizer", "/there/t")[0] == 0
    assert {f"--data={Path('text').resolve()}", "--tokenizer=/there/t"} <= {*ran.words}


def test_runs_that_break_make_no_baseline(bench: Command, ran: Pytest) -> None:
    ran.code = 1
    code, _, errors = bench("baseline", "record", "--case", "grok1-40b")
    assert code == 2
    assert "the runs ended with exit code 1" in errors


def test_records_and_runs_are_not_both_asked_for(bench: Command, ran: Pytest) -> None:
    code, _, errors = bench("baseline", "record", "results/records", "--case", "grok1-40b")
    assert code == 2
    assert "RECORDS are of runs that were made, and --case=grok1-40b is for new ones" in errors
    assert not ran.words


def test_a_busy_machine_needs_a_word(bench: Command, ran: Pytest, synthetic_record) -> None:
    ran.records = [synthetic_record(seed=seed, noise=0.002, **BUSY) for seed in range(1, 6)]
    code, _, errors = bench("baseline", "record")
    assert code == 2
    assert "other programs used 9.0 of 16 cores" in errors
    assert "--allow-busy" in errors
    assert bench("baseline", "record", "--allow-busy")[0] == 0


def test_a_planted_slowdown_is_no_baseline(bench: Command, ran: Pytest, synthetic_record) -> None:
    ran.records[2] = synthetic_record(seed=3, noise=0.002, planted_percent=30.0, **CPU)
    code, _, errors = bench("baseline", "record", "--allow-busy")
    assert code == 2
    assert "its steps were made 30 % longer on purpose (--plant-slowdown)" in errors

"""`python -m bench nightly`, through files: alarm, no alarm, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import BaselineFile, recorded_baseline
from bench.records.record import Record
from bench.selftest.nightly import Noise, rates, rates_table
from tests.in_process import Command

SECONDS = 39.8
RUNS = 2
FIRST = datetime(2025, 1, 1, 2, tzinfo=timezone.utc)


def session(build: Any, day: int, factor: float = 1.0, runs: int = RUNS, **changes: Any) -> list[Record]:
    """The runs of one night, in a session of its own whose level varies by 0.5 %."""
    level = factor * (1 + 0.005 * np.random.default_rng(day).standard_normal())
    moment = FIRST + timedelta(days=day)
    named = {"machine": "a" * 12, "boot": "b" * 12, "day": moment.date().isoformat(), "job": None}
    return [
        build(
            seed=100 * day + run + 1,
            noise=0.002,
            median_seconds=SECONDS * level,
            created_at=(moment + timedelta(minutes=20 * run)).isoformat(),
            session=named,
            commit={"sha": f"{day:040x}", "dirty": False},
            **changes,
        )
        for run in range(runs)
    ]


def nights(build: Any, factors: Sequence[float], first: int = 20, **changes: Any) -> list[Record]:
    return [run for at, each in enumerate(factors) for run in session(build, first + at, each, **changes)]


def store(records: Sequence[Record]) -> None:
    BaselineFile(schema=1, baselines=[recorded_baseline(records, "to test with")]).write(Path("baselines/one.json"))


def write(records: Sequence[Record], folder: str = "records") -> str:
    Path(folder).mkdir(exist_ok=True)
    for record in records:
        record.write(Path(folder) / f"{record.id}.json")
    return folder


def test_a_lasting_slowdown_is_told_with_its_night_and_commit(bench: Command, synthetic_record: Any) -> None:
    baseline = nights(synthetic_record, [1.0] * 8, first=0)
    store(baseline)
    write(baseline)
    folder = write(nights(synthetic_record, [1.0] * 6))
    code, output, _ = bench("nightly", "check", folder)
    assert code == 0
    assert "grok1-40b: night 6: e-value 0." in output
    assert "no lasting slowdown is shown since the baseline of 8 sessions" in output
    assert "left out: 16 runs from before the baseline's last" in output
    write(nights(synthetic_record, [1.04] * 10, first=26))
    write(session(synthetic_record, 40, runs=1))
    code, output, _ = bench("nightly", "check", folder, "--json", "told.json")
    assert code == 1
    (told,) = json.loads(Path("told.json").read_text())["cases"]
    assert (told["case"], told["is_alarm"], told["since"]) == ("grok1-40b", True, 7)
    assert told["baseline"] == recorded_baseline(baseline, "-").label
    assert " % slower since about night 7 (commit 000000000000, 2025-01-27T02:00:00+00:00)" in output
    assert f"python -m bench ab --base {f'{25:040x}'[:12]} --case grok1-40b --device npu" in output
    assert "1 night of fewer runs than the baseline's sessions (2)" in output
    code, output, _ = bench("nightly", "check", folder, "--since", "2025-02-05")
    assert code == 0


def test_void_and_disturbed_runs_are_left_out(bench: Command, synthetic_record: Any) -> None:
    store(nights(synthetic_record, [1.0] * 5, first=0))
    good = nights(synthetic_record, [1.0] * 2)
    bad = nights(synthetic_record, [2.0] * 20, first=30, valid=False, void_reasons=["a rank is missing"])
    code, output, _ = bench("nightly", "check", write([*good, *bad]))
    assert code == 0
    assert "night 2: " in output
    assert "40 runs void" in output


def refused(bench: Command, *words: str) -> str:
    code, _, errors = bench("nightly", "check", *words)
    assert code == 2
    assert errors.count("\n") == 1
    return errors


def test_what_is_refused_in_one_line(bench: Command, synthetic_record: Any) -> None:
    Path("records").mkdir()
    assert "no records in records: give the folder that every night writes to" in refused(bench, "records")
    folder = write(nights(synthetic_record, [1.0] * 2))
    assert "grok1-40b has no recorded baseline that judges" in refused(bench, folder)
    store(nights(synthetic_record, [1.0] * 4, first=0))
    few = refused(bench, folder)
    assert "holds 4 sessions, at least 5 needed" in few
    assert "python -m bench baseline add" in few
    store(nights(synthetic_record, [1.0] * 5, first=0))
    assert "no records of other in records" in refused(bench, folder, "--case", "other")
    assert "no records since 2026-01-01" in refused(bench, folder, "--since", "2026-01-01")
    assert "--since then: give a day such as 2025-01-31" in refused(bench, folder, "--since", "then")
    lone = refused(bench, write(session(synthetic_record, 20, runs=1), "lone"))
    assert "has no night to judge" in lone
    assert "pytest bench/ --benchmark --case grok1-40b --runs 2" in lone


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"software": {"python": "3.10.0", "torch": "2.8.0"}}, "software.torch 2.8.0 (baseline 2.7.1)"),
        ({"recipe": {"hash": "f" * 12}}, "recipe.hash ffffffffffff"),
    ],
)
def test_nights_of_another_key_are_refused(
    bench: Command, synthetic_record: Any, changes: dict[str, Any], words: str
) -> None:
    store(nights(synthetic_record, [1.0] * 5, first=0))
    folder = write([*nights(synthetic_record, [1.0]), *session(synthetic_record, 25, **changes)])
    found = refused(bench, folder)
    assert "is no night of" in found
    assert words in found


def test_the_rates_are_simulated() -> None:
    """Sessions 3 % apart, where the gate is told that they are 0.1 % apart: it fails, and the monitor does not."""
    row = rates_table(rates(trials=3, noises=[Noise(0.3, 3.0)], assumed_percent=0.1)).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["0.3 %", "3 %"]
    month, two_months = (float(cell.removesuffix(" %")) for cell in cells[2:4])
    assert two_months >= month > 0
    assert cells[-1] == "0.0 %"

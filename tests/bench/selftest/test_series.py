"""Noise series: sessions come from records, old files are one session, and what is out of order is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.selftest.series import FOLDER, Run, Series, read_series, series_of, write_series

OF_ONE_DAY = {"machine": "a" * 12, "boot": "b" * 12, "day": "2025-01-31", "job": None}


def at(synthetic_record: Any, minute: int, session: Any = None, **changes: Any) -> Any:
    """A record of that minute after noon."""
    moment = f"2025-01-31T{12 + minute // 60}:{minute % 60:02}:00Z"
    stamp = {"id": f"{minute:032x}", "created_at": moment, "session": session}
    return synthetic_record(seed=minute, median_seconds=1.0, **stamp, **changes)


def runs(sessions: Sequence[str | None], times: Sequence[str | None] | None = None) -> list[Run]:
    times = times or [None] * len(sessions)
    return [Run(ranks=[[100, 101]], session=s, created_at=t) for s, t in zip(sessions, times, strict=True)]


def series(of_runs: list[Run]) -> Series:
    return Series(condition="invented", recipe_name="none", recipe_hash="0", device_name="none", runs=of_runs)


def test_records_say_their_session(synthetic_record: Any) -> None:
    """By number in the order of time, whatever the order of files."""
    days = [OF_ONE_DAY, OF_ONE_DAY | {"boot": "c" * 12}]
    records = [at(synthetic_record, minute, days[minute >= 6]) for minute in range(12)]
    found = series_of("x", records[::-1])
    assert found.sessions == {"1": list(range(6)), "2": list(range(6, 12))}
    assert [run.created_at for run in found.runs] == [record.created_at for record in records]
    assert found.device_kind == records[0].device.kind


def test_records_without_a_session_are_of_their_folder(synthetic_record: Any) -> None:
    records = [at(synthetic_record, minute) for minute in range(12)]
    assert len(series_of("x", records).sessions) == 1
    assert series_of("x", records[6:], records[:6]).sessions == {"1": list(range(6)), "2": list(range(6, 12))}


def test_records_without_a_session_are_of_another_after_a_pause(synthetic_record: Any) -> None:
    records = [at(synthetic_record, minute + 120 * (minute >= 5)) for minute in range(10)]
    assert series_of("x", records).sessions == {"1": list(range(5)), "2": list(range(5, 10))}


def test_a_pause_ends_a_session_in_one_folder_and_in_two(synthetic_record: Any) -> None:
    records = [at(synthetic_record, minute + 120 * (minute >= 5), OF_ONE_DAY) for minute in range(10)]
    expected = {"1": list(range(5)), "2": list(range(5, 10))}
    assert series_of("x", records).sessions == series_of("x", records[:5], records[5:]).sessions == expected


def test_too_few_records_are_refused_in_words_of_ours(synthetic_record: Any) -> None:
    with pytest.raises(ValueError, match=r"^3 runs: a series has 10 to 1000; give more folders of records, or fewer$"):
        series_of("given", [synthetic_record(seed=seed) for seed in (1, 2, 3)])


def test_sessions_that_overlap_are_refused(synthetic_record: Any) -> None:
    days = [OF_ONE_DAY, OF_ONE_DAY | {"machine": "c" * 12}]
    records = [at(synthetic_record, minute, days[minute % 2]) for minute in range(10)]
    with pytest.raises(ValueError, match="sessions 1 and 2 overlap"):
        series_of("x", records)


def test_what_is_out_of_order_is_refused() -> None:
    noon, later = "2025-01-31T12:00:00Z", "2025-01-31T12:01:00+00:00"
    assert series(runs(["1"] * 10, [noon] * 5 + [later] * 5)).sessions == {"1": list(range(10))}
    with pytest.raises(ValueError, match="run 5 was made before the run above it"):
        series(runs(["1"] * 10, [later] * 5 + [noon] * 5))
    with pytest.raises(ValueError, match="run 3 names no session, and others do"):
        series(runs(["1", "1", "1", None, *["1"] * 6]))
    with pytest.raises(ValueError, match="not in UTC"):
        runs(["1"], ["2025-01-31T12:00:00"])
    with pytest.raises(ValueError, match="session"):
        runs([""])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_old_files_are_one_session_and_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    found = read_series(path)
    if "session" not in json.loads(path.read_bytes())["runs"][0]:
        assert found.sessions == {"1": list(range(len(found.runs)))}
    write_series(tmp_path / "again.json", found)
    assert read_series(tmp_path / "again.json") == found


def test_the_command_takes_a_folder_a_session(tmp_path: Path, synthetic_record: Any) -> None:
    for minute in range(12):
        at(synthetic_record, minute).write(tmp_path / str(minute // 6) / f"{minute}.json")
    stored = tmp_path / "series.json"
    given = [word for folder in "10" for word in ("--records", str(tmp_path / folder))]
    arguments = ["selftest", *given, "--trials", "10", "--store", str(stored), "--json", str(tmp_path / "counts.json")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_series(stored).sessions == {"1": list(range(6)), "2": list(range(6, 12))}
    assert "between its 2 sessions" in done.output
    assert "skipped: random draws, as runs of several sessions cannot be exchanged" in done.output
    (found,) = json.loads((tmp_path / "counts.json").read_text())["series"]
    assert found["sessions"] == {"1": 6, "2": 6}
    assert found["outcomes"] == found["held_back"] == []
    assert {(each["where"], each["apart"]) for each in found["in_order"]} == {("between sessions", "1 and 2")}


def test_a_folder_given_twice_is_refused(tmp_path: Path, synthetic_record: Any) -> None:
    for minute in range(10):
        at(synthetic_record, minute).write(tmp_path / f"{minute}.json")
    with pytest.raises(ValueError, match="give each run once"):
        CliRunner().invoke(app, ["selftest", *["--records", str(tmp_path)] * 2], catch_exceptions=False)

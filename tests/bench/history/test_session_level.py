"""The level between sessions from the history: right on average, raised for few sessions, blind to one real change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.history import store
from bench.history.session_level import level_percent, session_level
from bench.records.record import Record, Session


def histories(synthetic_record: Any, levels: list[float], path: Path) -> list[Record]:
    """Two runs of each session, appended to that file."""
    found = [
        synthetic_record(
            seed=10 * day + index,
            noise=0.0,
            median_seconds=40 * level,
            created_at=f"2025-02-{day:02d}T08:{20 * index:02d}:00Z",
            session=Session(machine="a" * 12, boot=None, day=f"2025-02-{day:02d}", job=None),
        )
        for day, level in enumerate(levels, 1)
        for index in range(2)
    ]
    store.append(path, found)
    return found


@pytest.mark.parametrize("number", [5, 8, 20])
def test_the_level_keeps_an_error_of_one_percent(number: int) -> None:
    """Two sessions are called different by it, as with a level that is known, in 1 % of the cases."""
    random = np.random.default_rng(3)
    trials = 1500
    medians = np.exp(random.normal(0.0, 0.02, (trials, number)))
    levels = np.array([level_percent(each.tolist()) for each in medians]) / 100
    wrong = float(np.mean(random.normal(0.0, 0.02, trials) > 2.326 * levels))
    assert 0.003 < wrong < 0.01 + 4 * (0.01 / trials) ** 0.5


@pytest.mark.parametrize("number", [5, 6, 20])
def test_sessions_that_take_turns_by_one_percent_by_hand(number: int) -> None:
    """All differences are 0.01, of which sqrt(pi) / 2 is a standard deviation; 0.7 degrees of freedom a difference."""
    found = level_percent(np.exp(0.01 * (np.arange(number) % 2)).tolist())
    raised = stats.t.ppf(0.99, 0.7 * (number - 1)) / stats.norm.ppf(0.99)
    assert found == pytest.approx(100 * np.expm1(0.01 * np.sqrt(np.pi) / 2 * raised))


def test_one_real_change_hardly_moves_it() -> None:
    random = np.random.default_rng(4)
    medians = np.exp(random.normal(0.0, 0.01, (200, 20)))
    changed = medians * np.where(np.arange(20) < 10, 1.0, 1.2)
    before, after = (np.mean([level_percent(each.tolist()) for each in sides]) for sides in (medians, changed))
    assert 1.0 < before < 1.3
    assert after < 1.3 * before


def test_a_history_gives_the_level_of_a_case_or_says_why_not(tmp_path: Path, synthetic_record: Any) -> None:
    path = tmp_path / "history.jsonl"
    records = histories(synthetic_record, [1.0, 1.01, 0.99, 1.02], path)
    level = session_level("history", path)
    assert level.of(records[0]) is None
    assert "holds 4 sessions of it, and a level takes 5" in str(level.told(records[0]))
    path.unlink()
    records = histories(synthetic_record, [1.0], path)
    assert "holds 1 session of it, and" in str(session_level("history", path).told(records[0]))
    path.unlink()
    records = histories(synthetic_record, [1.0, 1.01, 0.99, 1.02, 1.0], path)
    level = session_level(str(path), tmp_path / "none")
    assert level.of(records[0]) == pytest.approx(
        level_percent([1.0, 1.01, 0.99, 1.02, 1.0]), rel=0.02
    )  # of invented ranks
    assert "% between sessions, by 5 sessions in" in str(level.told(records[0]))
    assert level.of(synthetic_record(case="another")) is None
    judged = session_level("history", path, [each.id for each in records[-2:]])
    assert judged.of(records[0]) is None, "what is judged is no history"


def test_a_percentage_is_what_it_says(synthetic_record: Any) -> None:
    level = session_level("2.5", Path("none"))
    assert (level.of(synthetic_record()), level.told(synthetic_record())) == (2.5, None)
    assert session_level(None, Path("none")).of(synthetic_record()) is None


@pytest.mark.parametrize("given", ["0", "-1", "50.1", "nan", "inf", "much", "", "1e999"])
def test_what_is_no_level_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="give a percentage from 0.01 to 50"):
        session_level(given, Path("none"))


def test_a_history_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no history at"):
        session_level("history", tmp_path / "history.jsonl")


def test_a_line_without_a_session_is_read(tmp_path: Path, synthetic_record: Any) -> None:
    entry = store.entry_of(synthetic_record())
    line = entry.model_dump(by_alias=True)
    assert line.pop("session") is None
    assert store.Entry.model_validate(line) == entry

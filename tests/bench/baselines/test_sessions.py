"""Sessions of a baseline: what is refused, what is added, what is shown."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.baselines.sessions import added, require_sessions, require_sound, sessions_of
from bench.judge.baseline import Baseline, load_baselines, recorded_baseline
from bench.judge.difference import MIN_SESSIONS
from bench.judge.sessions import ASSUMED_PERCENT
from bench.records.record import Record, Session
from tests.in_process import Command

TODAY = date(2025, 3, 1)


def run(synthetic_record: Any, day: int, turn: int, level: float = 1.0, machine: str = "a", **changes: Any) -> Record:
    """It ends so many times twenty minutes after eight, on that day of February, and takes nearly as long."""
    seed = 100 * day + turn
    between = level * (1 + 0.002 * float(np.random.default_rng(seed).standard_normal()))
    stamp = f"2025-02-{day:02d}"
    session = Session(machine=machine * 12, boot=changes.pop("boot", "b" * 12), day=stamp, job=changes.pop("job", None))
    found: Record = synthetic_record(
        seed=seed,
        noise=0.002,
        median_seconds=39.8 * between,
        created_at=f"{stamp}T{8 + turn // 3:02d}:{20 * (turn % 3):02d}:00Z",
        session=session,
        **changes,
    )
    return found


def runs(synthetic_record: Any, days: list[int], each: int, **changes: Any) -> list[Record]:
    return [run(synthetic_record, day, index, **changes) for day in days for index in range(each)]


def test_sessions_are_told_apart_and_counted(synthetic_record: Any) -> None:
    found = sessions_of(runs(synthetic_record, [2, 1], 2))
    assert [each.told for each in found] == [
        "(machine aaaaaaaaaaaa, boot bbbbbbbbbbbb, 2025-02-01) 2 runs, 2025-02-01T08:00:00Z to 2025-02-01T08:20:00Z",
        "(machine aaaaaaaaaaaa, boot bbbbbbbbbbbb, 2025-02-02) 2 runs, 2025-02-02T08:00:00Z to 2025-02-02T08:20:00Z",
    ]
    require_sessions(runs(synthetic_record, [1, 2], 1), 2)
    with pytest.raises(ValueError, match=r"of 1 session, and --sessions 2 asks for 2 \(\(machine a+, boot b+, 2025-02"):
        require_sessions(runs(synthetic_record, [1], 2), 2)


def test_two_jobs_at_once_on_one_machine_are_refused_and_both_named(synthetic_record: Any) -> None:
    """A run of another job, within the hour of the first."""
    one = runs(synthetic_record, [1], 3, job="SLURM_JOB_ID=1")
    other = [run(synthetic_record, 1, 1, job="SLURM_JOB_ID=2")]
    with pytest.raises(
        ValueError, match="overlap on one machine: .*job SLURM_JOB_ID=1.* and .*job SLURM_JOB_ID=2"
    ) as told:
        require_sound([*one, *other])
    assert "\n" not in str(told.value)
    require_sound([*one, run(synthetic_record, 1, 1, machine="c", job="SLURM_JOB_ID=2")])
    require_sound([*one, run(synthetic_record, 1, 3, job="SLURM_JOB_ID=2")])


def test_sessions_of_two_softwares_are_refused_and_both_named(synthetic_record: Any) -> None:
    one, other = runs(synthetic_record, [1], 3), runs(synthetic_record, [2], 2, software={"torch": "2.8.0"})
    with pytest.raises(ValueError, match=r"torch is 2\.7\.1 in \(.*2025-02-01\) and 2\.8\.0 in \(.*2025-02-02\)"):
        require_sound([*one, *other])
    stored = recorded_baseline(runs(synthetic_record, [1, 2], 3), "why")
    content = stored.model_dump()
    content["runs"][5]["software"]["torch"] = "2.8.0"
    with pytest.raises(ValueError, match="two sessions differ in software: torch is .*2025-02-01.*2025-02-02"):
        Baseline.model_validate(content)


def test_a_session_is_added_and_the_rationale_stays(synthetic_record: Any) -> None:
    old = recorded_baseline(runs(synthetic_record, [1], 5), "because")
    new = added(old, runs(synthetic_record, [2, 3], 2, level=1.01), TODAY)
    assert (new.rationale, len(new.runs)) == ("because", 9)
    assert new.source == "9 recorded runs of this project in 3 sessions; the last 4 were added on 2025-03-01"
    assert new.label != old.label
    assert new.metrics.step_seconds > old.metrics.step_seconds
    whole = recorded_baseline(
        [*runs(synthetic_record, [1], 5), *runs(synthetic_record, [2, 3], 2, level=1.01)], "because"
    )
    assert (new.label, new.metrics, new.runs) == (whole.label, whole.metrics, whole.runs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"software": {"torch": "2.8.0"}}, "is of another key: software.torch 2.8.0"),
        ({"recipe": {"hash": "f" * 12}}, "is of another key: recipe.hash"),
        ({"valid": False, "void_reasons": ["step 3: loss is not finite"]}, "loss is not finite"),
    ],
)
def test_what_does_not_belong_is_not_added(synthetic_record: Any, changes: dict[str, Any], told: str) -> None:
    old = recorded_baseline(runs(synthetic_record, [1], 5), "because")
    with pytest.raises(ValueError, match=told):
        added(old, runs(synthetic_record, [2], 1, **changes), TODAY)


def test_a_run_counts_once(synthetic_record: Any) -> None:
    old = recorded_baseline(runs(synthetic_record, [1], 5), "because")
    with pytest.raises(ValueError, match="is in the baseline already"):
        added(old, runs(synthetic_record, [1], 1), TODAY)
    twice = runs(synthetic_record, [2], 1)
    with pytest.raises(ValueError, match="given twice"):
        added(old, [*twice, *twice], TODAY)
    with pytest.raises(ValueError, match="no records to add"):
        added(old, [], TODAY)


# ---- the commands --------------------------------------------------------------------------------------


def write(records: list[Record], folder: str) -> Path:
    Path(folder).mkdir()
    for each in records:
        each.write(Path(folder) / f"{each.id}.json")
    return Path(folder)


def test_sessions_are_recorded_added_and_shown(bench: Command, synthetic_record: Any) -> None:
    first = write(runs(synthetic_record, [1], 5), "first")
    code, _, errors = bench("baseline", "record", first, "--sessions", 2)
    assert code == 2
    assert "of 1 session, and --sessions 2 asks for 2" in errors.splitlines()[-1]
    assert bench("baseline", "record", first, "-o", "candidate.json")[0] == 0
    assert bench("baseline", "promote", "candidate.json", "--rationale", "because")[0] == 0
    (old,) = load_baselines(Path("baselines"))
    code, output, _ = bench("baseline", "show", old.label)
    assert f"{ASSUMED_PERCENT['npu']:g} % is assumed for its kind of device" in output
    alone = visible(output)
    more = write(runs(synthetic_record, [2, 3, 4, 5, 6, 7], 2, boot=None), "more")
    code, output, errors = bench("baseline", "add", old.label, more)
    assert code == 0, errors
    assert output.startswith("added  (machine aaaaaaaaaaaa, boot unknown, 2025-02-02) 2 runs, 2025-02-02T08:00:00Z to ")
    (new,) = load_baselines(Path("baselines"))
    assert (len(new.runs), new.rationale) == (17, "because")
    code, output, _ = bench("baseline", "show", new.label)
    assert "known from its own 7 sessions" in output
    assert "no boot id is known" in output
    assert MIN_SESSIONS <= 7
    assert visible(output) < alone / 2, "sessions that are alike show more than an assumed level does"
    assert bench("baseline", "add", "candidate.json", more)[0] == 0
    assert bench("baseline", "add", "nobody", more)[0] == 2


def visible(output: str) -> float:
    """The smallest slowdown across sessions, in percent."""
    line = next(line for line in output.splitlines() if line.startswith("across sessions"))
    return float(line.split()[2])

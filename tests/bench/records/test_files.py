"""Records of files that a command was given: each run once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.records.files import read_records


def test_a_copy_of_a_run_under_another_id_is_refused(synthetic_record: Any, tmp_path: Path) -> None:
    first, other = synthetic_record(seed=1, noise=0.003), synthetic_record(seed=2, noise=0.003)
    first.write(tmp_path / "a.json")
    other.write(tmp_path / "b.json")
    assert len(read_records([tmp_path])) == 2
    first.model_copy(update={"id": "f" * len(first.id)}).write(tmp_path / "c.json")
    with pytest.raises(
        ValueError, match=r"c\.json: its step times are those of .*a\.json, to the last digit; give each"
    ):
        read_records([tmp_path])


def test_runs_of_a_few_alike_times_are_runs(synthetic_record: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        synthetic_record(seed=seed, noise=0.0).write(tmp_path / f"{seed}.json")
    assert len(read_records([tmp_path])) == 2


@pytest.mark.parametrize("place", ["job-2", "job-2/records"])
def test_a_folder_within_a_folder_of_records_is_not_forgotten(
    place: str, synthetic_record: Any, tmp_path: Path
) -> None:
    """As artifacts of several jobs are unpacked, one over the other."""
    records, inner = tmp_path / "records", tmp_path / "records" / place
    inner.mkdir(parents=True)
    for number, other in enumerate((records, records / ".ipynb_checkpoints"), 1):
        other.mkdir(exist_ok=True)
        synthetic_record(seed=number, noise=0.003).write(other / "a.json")
    (inner / "notes.json").write_text("{}")
    assert len(read_records([records])) == 1
    synthetic_record(seed=9, noise=0.003).write(inner / "b.json")
    with pytest.raises(
        ValueError, match=r"records: holds records, and so does .*job-2.*, which was not given; give both"
    ):
        read_records([records])
    assert len(read_records([records, inner / "b.json"])) == 2
    (inner / "notes.json").unlink()
    assert len(read_records([records, inner])) == 2

"""Records of one rank alone: what they may leave out, and that older records stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.records.lone_rank import LoneRank, told_tier
from bench.records.record import Record


def test_it_survives_the_trip_to_disk_without_losses_and_the_other_ranks(lone_record, tmp_path: Path) -> None:
    record = lone_record()
    record.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == record
    assert record.valid


def test_a_record_from_before_there_were_lone_ranks_is_of_the_whole_job(synthetic_record) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    del content["lone_rank"]
    for rank in content["ranks"]:
        del rank["operators_seconds"], rank["operator_calls"]
    assert Record.model_validate(content) == synthetic_record()
    assert Record.model_validate(content).lone_rank is None


@pytest.mark.parametrize(
    ("lone_rank", "complaint"),
    [
        ({"rank": 4}, "ranks holds no other"),
        ({"rank": 16}, "ranks holds no other"),
        ({"rank": -1}, "greater than or equal to 0"),
        ({"rank": 5, "routing_shares": [1.5]}, "less than or equal to 1"),
        ({"rank": 5, "more": 1}, "Extra inputs"),
        (None, "not finite: valid must be false"),
    ],
)
def test_what_contradicts_it_is_refused(lone_record, lone_rank: dict[str, Any] | None, complaint: str) -> None:
    content = lone_record().model_dump(mode="json", by_alias=True) | {"lone_rank": lone_rank}
    with pytest.raises(ValidationError, match=complaint):
        Record.model_validate(content)


def test_a_lone_rank_that_left_no_samples_is_void(lone_record) -> None:
    content = lone_record().model_dump(mode="json", by_alias=True) | {"ranks": []}
    with pytest.raises(ValidationError, match="rank 5 is missing"):
        Record.model_validate(content)


def test_tiers_in_words() -> None:
    assert told_tier(None) == "the whole job"
    assert told_tier(LoneRank(rank=3)) == "rank 3 alone"
    assert told_tier(LoneRank(rank=3, routing_shares=[0.25, 0.75])) == "rank 3 alone, routed 0.25, 0.75"

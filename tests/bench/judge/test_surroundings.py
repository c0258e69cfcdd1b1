"""What is told of the environment and the host, which are in no baseline's key."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge

RING = {"environment": {"HCCL_ALGO": "ring"}}
MANY = {f"HCCL_{letter}": "1" for letter in "ABCD"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"environment": {"OMP_NUM_THREADS": "2"}}, "OMP_NUM_THREADS is 2, at the baseline 1"),
        ({}, RING, "HCCL_ALGO is ring, at the baseline not set"),
        (RING, {}, "HCCL_ALGO is not set, at the baseline ring"),
        (RING, RING, None),
        ({}, {"host": {"cores": 96}}, "the host's number of cores is 96, at the baseline 192"),
        ({}, {"host": {"cpu_name": "other"}}, "the host's CPU is other, at the baseline synthetic"),
        ({}, {"environment": MANY}, "HCCL_C is 1, at the baseline not set, and 1 more of the environment"),
        ({}, {}, None),
    ],
)
def test_what_differs_is_told_and_decides_nothing(
    before: dict[str, Any], after: dict[str, Any], told: str | None, synthetic_record: Any
) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed, **before) for seed in range(5)], "invented")
    verdict = judge([synthetic_record(seed=seed, **after) for seed in range(10, 15)], [stored])
    assert verdict.state == "pass"
    assert ("at the baseline" in verdict.sentence) == (told is not None)
    assert (told or "") in verdict.sentence


def test_runs_that_are_not_alike_are_told_with_all_values(synthetic_record: Any) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    ours = [synthetic_record(seed=10 + count, environment={"OMP_NUM_THREADS": str(count)}) for count in (1, 2, 1)]
    assert "OMP_NUM_THREADS is 1 or 2, at the baseline 1" in judge(ours, [stored]).sentence


def test_nothing_is_told_beside_what_says_nothing(synthetic_record: Any) -> None:
    """A foreign log has no environment, and a published figure has no runs."""
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    log: dict[str, Any] = {"environment": {}, "host": None}
    silent = stored.model_copy(update={"runs": [run.model_copy(update=log) for run in stored.runs]})
    bare = stored.model_copy(update={"runs": []})
    for baseline in (silent, bare):
        assert "at the baseline" not in judge(synthetic_record(seed=9, environment={}), [baseline]).sentence


def test_one_run_that_says_nothing_hides_nothing(synthetic_record: Any) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "invented")
    ours = [synthetic_record(seed=10 + seed, **RING) for seed in range(5)]
    ours[2] = ours[2].model_copy(update={"environment": {}, "host": None})
    assert "HCCL_ALGO is ring, at the baseline not set" in judge(ours, [stored]).sentence


def test_long_and_empty_values_are_told_in_few_words(synthetic_record: Any) -> None:
    stored = recorded_baseline([synthetic_record(seed=seed, **RING) for seed in range(5)], "invented")
    ours = [
        synthetic_record(seed=10 + seed, environment={"HCCL_ALGO": "", "HCCL_OTHER": f"{seed}" * 1000})
        for seed in range(5)
    ]
    sentence = judge(ours, [stored]).sentence
    assert "HCCL_ALGO is empty, at the baseline ring" in sentence
    assert f"HCCL_OTHER is {'0' * 40}… or {'1' * 40}… or {'2' * 40}… or others, at the baseline not set" in sentence

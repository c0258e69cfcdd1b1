"""What the ranks of new runs say: the one that the others wait for, and memory that grows in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.findings import Finding
from bench.judge.gate import judge
from bench.judge.patterns import findings, sentences
from bench.records.record import Record
from tests.conftest import RecordBuilder

STEPS = 40
Ranks = list[dict[str, Any]]


def changed(record: Record, change: Callable[[Ranks], None], **changes: Any) -> Record:
    content = record.model_dump(by_alias=True)
    change(content["ranks"])
    content |= changes
    return Record.model_validate(content)


def runs(build: RecordBuilder, change: Callable[[Ranks], None], number: int = 3, **changes: Any) -> list[Record]:
    return [changed(build(steps=STEPS, seed=seed), change, **changes) for seed in range(number)]


def found_by(records: Sequence[Record]) -> dict[str, Finding]:
    return {each.kind: each for each in findings((), records)}


def slow(*which: int, by: float = 0.08) -> Callable[[Ranks], None]:
    """These ranks compute for longer; all of them take as long as the slowest, and the others wait for it."""

    def change(ranks: Ranks) -> None:
        for step in range(STEPS):
            busy = [rank["step_seconds"][step] * 0.8 * (1 + by * (rank["rank"] in which)) for rank in ranks]
            for rank, seconds in zip(ranks, busy, strict=True):
                rank["step_seconds"][step], waits = max(busy) * 1.1, max(busy) * 1.1 - seconds
                rank["communication_seconds"][step] = max(0.0, waits - rank["phases_seconds"]["pipeline"][step])

    return change


def leak(bytes_a_step: int, *which: int, jitter: int = 0) -> Callable[[Ranks], None]:
    def change(ranks: Ranks) -> None:
        random = np.random.default_rng(0)
        for rank in ranks:
            grows = bytes_a_step * (rank["rank"] in which)
            rank["memory_bytes"] = [2**35 + grows * step + int(random.integers(0, jitter + 1)) for step in range(STEPS)]

    return change


# ---- one rank ----------------------------------------------------------------------------------------------


def test_equal_ranks_have_nothing_to_say(synthetic_record: RecordBuilder) -> None:
    assert found_by(runs(synthetic_record, slow())) == {}
    assert found_by(runs(synthetic_record, lambda ranks: None)) == {}


def test_the_rank_that_waits_least_is_named(synthetic_record: RecordBuilder) -> None:
    """Every rank's step takes as long; rank 11 is on the second node, and in the second stage."""
    found = found_by(runs(synthetic_record, slow(11)))["slow rank"]
    told = "rank 11 (node 1) takes 8.1 % longer than the median rank of its stage in every step"
    assert found.sentence.startswith(told)
    assert found.percent == pytest.approx(100 * 0.08 / 1.08 / 1.1, rel=0.1)


def test_a_rank_that_is_slow_in_one_run_is_not_named(synthetic_record: RecordBuilder) -> None:
    records = [*runs(synthetic_record, slow(), 2), changed(synthetic_record(steps=STEPS, seed=7), slow(11))]
    assert found_by(records) == {}


def test_another_rank_in_each_run_is_not_named(synthetic_record: RecordBuilder) -> None:
    records = [changed(synthetic_record(steps=STEPS, seed=seed), slow(8 + seed)) for seed in range(3)]
    assert found_by(records) == {}


def test_a_stage_with_more_to_do_is_no_slow_rank(synthetic_record: RecordBuilder) -> None:
    assert "slow rank" not in found_by(runs(synthetic_record, slow(*range(8, 16))))


def test_a_slow_node_is_named_where_stages_span_nodes(synthetic_record: RecordBuilder) -> None:
    def change(ranks: Ranks) -> None:
        for rank in ranks:
            rank["stage"] = rank["rank"] % 2
        slow(*range(8, 16))(ranks)

    found = found_by(runs(synthetic_record, change))["slow rank"]
    assert found.sentence.startswith("node 1 takes 8")


def test_ranks_without_communication_are_compared_by_their_steps(synthetic_record: RecordBuilder) -> None:
    def change(ranks: Ranks) -> None:
        for rank in ranks:
            rank["communication_seconds"], rank["phases_seconds"] = [], {}
            factor = 1.1 if rank["rank"] == 3 else 1.0
            rank["step_seconds"] = [factor * seconds for seconds in rank["step_seconds"]]

    assert found_by(runs(synthetic_record, change))["slow rank"].sentence.startswith("rank 3 (node 0) takes 1")


# ---- memory ------------------------------------------------------------------------------------------------


def test_memory_that_grows_in_every_step_is_told_with_its_rank(synthetic_record: RecordBuilder) -> None:
    found = found_by(runs(synthetic_record, leak(12 * 2**20, 5)))["memory"]
    assert found.sentence == "memory of rank 5 grows by 12 MiB a step, 0.23 % of its peak in ten"
    assert found.percent == pytest.approx(100 * 12 / 1024 / 52 * 100, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        leak(2**20, 5),  # too little of 50 GiB
        leak(12 * 2**20, 5, jitter=2**30),  # now more, now less
        lambda ranks: None,  # not recorded
    ],
)
def test_other_memory_is_not_told(change: Callable[[Ranks], None], synthetic_record: RecordBuilder) -> None:
    assert found_by(runs(synthetic_record, change)) == {}


def test_memory_that_settles_is_not_told(synthetic_record: RecordBuilder) -> None:
    def change(ranks: Ranks) -> None:
        for rank in ranks:
            rank["memory_bytes"] = [round(2**35 * (1 + 0.1 * (1 - 0.9**step))) for step in range(STEPS)]

    assert found_by(runs(synthetic_record, change)) == {}


@pytest.mark.parametrize(("share", "is_told"), [(0.73, True), (0.67, False)])
def test_each_half_of_the_steps_grows_by_most_of_the_whole_slope(
    share: float, is_told: bool, synthetic_record: RecordBuilder
) -> None:
    """The second half by this share of it, to the last step, and the first by the rest."""

    def change(ranks: Ranks) -> None:
        grows = [0.0, *np.where(np.arange(1, STEPS) <= STEPS // 2, 2 - share, share)]
        for rank in ranks:
            rank["memory_bytes"] = [2**35 + round(12 * 2**20 * each) for each in np.cumsum(grows)]

    assert ("memory" in found_by(runs(synthetic_record, change))) == is_told


def test_a_cpu_process_may_grow_more_before_it_is_told(synthetic_record: RecordBuilder) -> None:
    device = synthetic_record().device.model_dump() | {"kind": "cpu"}
    assert found_by(runs(synthetic_record, leak(12 * 2**20, 5), device=device)) == {}
    assert "memory" in found_by(runs(synthetic_record, leak(120 * 2**20, 5), device=device))


def test_memory_has_one_number_a_step(synthetic_record: RecordBuilder) -> None:
    with pytest.raises(ValueError, match="rank 0: memory_bytes holds 3 numbers for 40 steps"):
        runs(synthetic_record, lambda ranks: ranks[0].update(memory_bytes=[1, 2, 3]))


# ---- in a verdict ------------------------------------------------------------------------------------------


def test_a_verdict_says_what_a_median_cannot_see(synthetic_record: RecordBuilder) -> None:
    def change(ranks: Ranks) -> None:
        slow(11)(ranks)
        leak(12 * 2**20, 5)(ranks)
        for rank in ranks:
            for step in range(10, STEPS, 10):
                rank["step_seconds"][step] *= 2

    baseline = recorded_baseline(runs(synthetic_record, slow(), 5), "invented")
    new = [each.model_copy(update={"id": f"{9:08x}{at}"}) for at, each in enumerate(runs(synthetic_record, change))]
    verdict = judge(new, [baseline])
    assert [each.kind for each in verdict.findings] == ["periodic", "slow rank", "memory"]
    told = sentences(baseline.runs, new)
    assert told == "; ".join(each.sentence for each in verdict.findings[:2])
    assert verdict.sentence.endswith(f". Also: {told}")
    assert "every 10th step takes 2" in told
    assert findings(baseline.runs, new[::-1]) == verdict.findings


def test_runs_without_a_baseline_have_findings_too(synthetic_record: RecordBuilder) -> None:
    verdict = judge(runs(synthetic_record, slow(11)), [])
    assert verdict.state == "no_baseline"
    assert [each.kind for each in verdict.findings] == ["slow rank"]
    assert "rank 11" in verdict.sentence

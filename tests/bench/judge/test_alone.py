"""A rank alone is judged by baselines of the same rank alone, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.baselines.store import key_differences, same_key
from bench.history.store import key_of
from bench.judge.alone import alone
from bench.judge.baseline import load_baselines, recorded_baseline
from bench.judge.gate import judge, missing
from bench.judge.groups import grouped
from bench.judge.metrics import figures_of
from bench.judge.stats import summarise
from bench.records.record import Record

ROOT = Path(__file__).parents[3]


def test_its_own_baseline_judges_it(lone_record) -> None:
    baseline = recorded_baseline([lone_record(seed=seed) for seed in range(5)], "the rank's own work")
    assert baseline.lone_rank is not None
    new = [lone_record(seed=seed) for seed in range(10, 15)]
    assert judge(new, [baseline]).state == "pass"
    slow = [lone_record(seed=seed, median_seconds=39.8 * 1.2) for seed in range(10, 15)]
    verdict = judge(slow, [baseline])
    assert verdict.state == "fail"
    assert "rank 5 of 16 alone, without communication" in verdict.sentence


def test_no_other_tier_judges_it_though_all_else_is_the_same(lone_record, synthetic_record) -> None:
    name = "one-case"
    whole = recorded_baseline([synthetic_record(seed=seed, case=name) for seed in range(5)], "the whole job")
    one = recorded_baseline([lone_record(seed=seed, case=name) for seed in range(5)], "one rank")
    other = recorded_baseline([lone_record(6, seed=seed, case=name) for seed in range(5)], "another")
    skewed = recorded_baseline([lone_record(5, (0.5, 0.5), seed=seed, case=name) for seed in range(5)], "skewed")
    for record, baseline, differs in (
        (lone_record(case=name), whole, "ran rank 5 alone (baseline the whole job)"),
        (synthetic_record(case=name), one, "ran the whole job (baseline rank 5 alone)"),
        (lone_record(case=name), other, "ran rank 5 alone (baseline rank 6 alone)"),
        (lone_record(case=name), skewed, "ran rank 5 alone (baseline rank 5 alone, routed 0.5, 0.5)"),
    ):
        verdict = judge(record, [baseline])
        assert (verdict.state, verdict.rows) == ("no_baseline", ())
        assert verdict.refusals[0].differences == (differs,)
        assert differs in verdict.sentence
    assert not same_key(one, whole)
    assert not same_key(one, other)
    assert key_differences(one, whole) == ["ran rank 5 alone (stored the whole job)"]


def test_published_figures_never_judge_it(lone_record) -> None:
    verdict = judge(lone_record(case="grok1-40b"), load_baselines(ROOT / "baselines"))
    assert verdict.state == "no_baseline"
    assert all(each.differences[0].startswith("ran rank 5 alone") for each in verdict.refusals)


def test_one_case_of_two_tiers_is_refused_in_a_line_that_names_both(lone_record, synthetic_record) -> None:
    one, whole = lone_record(case="grok1-40b", seed=1), synthetic_record()
    for refuse in (lambda: list(grouped([whole, one])), lambda: judge([whole, one], [])):
        with pytest.raises(ValueError, match="never compared") as refused:
            refuse()
        assert f"{whole.id} (the whole job) and {one.id} (rank 5 alone)" in str(refused.value)
    with pytest.raises(ValueError, match="differs from the first in ran rank 5 alone"):
        recorded_baseline([whole, one], "mixed")


def test_its_baseline_is_not_missed_where_whole_jobs_ran_nor_the_other_way(lone_record, synthetic_record) -> None:
    one = recorded_baseline([lone_record(seed=seed) for seed in range(5)], "one rank")
    whole = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "the whole job")
    assert missing([synthetic_record()], [one, whole]) == []
    assert missing([lone_record()], [one, whole]) == []
    assert [each.case for each in missing([lone_record(case="another")], [one, whole])] == ["grok1-40b-rank-5"]


def test_its_history_is_its_own_and_the_whole_jobs_keeps_its_key(lone_record, synthetic_record) -> None:
    keys = [key_of(each) for each in (synthetic_record(), lone_record(), lone_record(6), lone_record(5, (1.0,)))]
    assert len(set(keys)) == 4


def test_what_needs_the_other_ranks_is_not_measured(lone_record) -> None:
    summary = summarise(lone_record())
    assert summary.bubble_measured is None
    assert summary.communication_share is None
    assert figures_of(summary)["peak_bytes"] > 0


def with_phases(record: Record, **seconds: float) -> Record:
    content = record.model_dump(mode="json", by_alias=True)
    steps = len(record.steps)
    content["ranks"][0]["step_seconds"] = [10.0] * steps
    content["ranks"][0]["phases_seconds"] = {name: [value] * steps for name, value in seconds.items()}
    content["ranks"][0]["operators_seconds"] = 7.0
    return Record.model_validate(content)


def test_the_job_is_no_faster_than_its_rank_and_the_filling_of_its_pipeline(lone_record) -> None:
    record = with_phases(lone_record(), forward=2.0, backward=4.4)  # of 64 micro-batches on two stages
    found = alone(record, summarise(record))
    assert found is not None
    assert found.micro_batch_seconds == pytest.approx(0.1)
    assert found.least_step_seconds == pytest.approx(10.1)
    assert found.most_tokens_per_second_per_processor == pytest.approx(record.work.tokens_per_step / 10.1 / 16)
    assert found.host_seconds == pytest.approx(3.0)
    terms = {"products": 99.0, "tensor": 6.4, "expert": 0.64, "data": 0.5, "bubble": 99.0}
    assert found.job_seconds(terms, 64) == pytest.approx(10.1 + 7.04 * 65 / 64 + 0.5)
    assert found.job_seconds({}, 64) == found.least_step_seconds
    assert found.host_seconds_a_call == pytest.approx(3e-6)


def test_without_the_times_of_its_passes_the_job_takes_as_long_as_its_rank(lone_record) -> None:
    record = lone_record()
    found = alone(record, replace(summarise(record), phase_seconds={}))
    assert found is not None
    assert found.micro_batch_seconds is None
    assert found.least_step_seconds == found.step_seconds


def test_a_profiled_step_longer_than_the_others_says_nothing_of_the_host(lone_record) -> None:
    record = lone_record(median_seconds=5.0)
    found = alone(record, summarise(record))
    assert found is not None
    assert found.host_seconds is None
    assert found.host_seconds_a_call is None


def test_a_whole_job_is_none(synthetic_record) -> None:
    assert alone(synthetic_record(), summarise(synthetic_record())) is None

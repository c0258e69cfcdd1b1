"""Statistics: the warm-up cut and every figure of a summary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge.stats import _medians, bubble_of_step, find_steady, ideal_bubble, imbalance, summarise

STEP_SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@given(STEP_SECONDS)
def test_the_cut_leaves_at_least_half_and_takes_at_least_one_step(seconds: list[float]) -> None:
    cut = find_steady(seconds).steady_from
    assert cut < len(seconds)
    assert len(seconds) == 1 or 1 <= cut <= max(1, len(seconds) // 2)


@given(STEP_SECONDS, st.sampled_from([2.0**-10, 0.25, 8.0, 1024.0]))
def test_the_cut_does_not_depend_on_the_unit_of_time(seconds: list[float], unit: float) -> None:
    assert find_steady(seconds) == find_steady([unit * value for value in seconds])


@given(st.integers(1, 8), st.floats(1.5, 100), st.integers(0, 2**32 - 1))
def test_every_slow_leading_step_is_cut(slow: int, factor: float, seed: int) -> None:
    noise = 0.01 * np.random.default_rng(seed).standard_normal(30)
    seconds = 1 + noise
    seconds[:slow] *= factor
    warmup = find_steady(seconds.tolist())
    assert warmup.steady_from >= slow
    assert warmup.rule in ("detected", "unsettled")


@given(st.integers(6, 50), st.floats(1e-3, 1e3))
def test_a_run_that_never_varies_loses_its_first_step_only(count: int, seconds: float) -> None:
    assert find_steady([seconds] * count).steady_from == 1


@given(st.integers(6, 60), st.floats(0.0, 2.0), st.floats(0.5, 0.95), st.integers(0, 2**32 - 1))
def test_the_cut_is_the_first_whose_standard_error_is_nearly_the_least(
    count: int, height: float, decay: float, seed: int
) -> None:
    """By the definition: of clipped times, the variance of what is left over the number of steps left."""
    random = np.random.default_rng(seed)
    seconds = 1 + height * decay ** np.arange(count) + 0.02 * random.standard_normal(count)
    tail = seconds[count // 2 :]
    middle = np.median(tail)
    spread = max(3 * 1.4826 * np.median(np.abs(tail - middle)), middle / 1000)
    clipped = np.clip(seconds, middle - spread, middle + spread)
    errors = [clipped[cut:].var() / (count - cut) for cut in range(1, count // 2 + 1)]
    cut = next(place for place, error in enumerate(errors, 1) if error <= 1.1 * min(errors))
    while cut < count // 2 and seconds[cut] > middle + spread:
        cut += 1
    assert find_steady(seconds.tolist()).steady_from == cut


def test_half_of_a_run_is_kept_though_the_next_step_is_slow_too() -> None:
    found = find_steady([9.0] * 11 + [1.0] * 9)
    assert (found.steady_from, found.rule) == (10, "unsettled")


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=9))
def test_medians_are_those_of_numpy(values: list[float]) -> None:
    assert _medians(np.array([values, values[::-1]])) == pytest.approx(np.median([values, values], axis=1))


def test_a_modules_time_is_that_of_the_mean_rank_that_tells_of_it(synthetic_record) -> None:
    ranks = [rank.model_dump() for rank in synthetic_record().ranks]
    for rank, forward in zip(ranks, (1.0, 2.0), strict=False):
        rank["modules_seconds"] = {"attention": {"forward": forward, "backward": 2 * forward}}
    assert summarise(synthetic_record(ranks=ranks)).module_seconds == {"attention": pytest.approx(4.5)}


def test_a_run_like_the_published_two_layer_one_loses_its_two_slow_steps() -> None:
    # The first two steps of the published NPU run, then invented ones of the same median and 1 % noise.
    steady = [655.1, 668.0, 652.3, 661.2, 658.9, 664.7, 657.0, 659.8, 671.5, 655.9, 660.4, 653.8, 662.6]
    assert find_steady([5298.7, 683.5, *steady]).steady_from == 2


def test_a_late_hiccup_is_not_the_end_of_the_warmup() -> None:
    seconds = (1 + 0.01 * np.random.default_rng(3).standard_normal(30)).tolist()
    seconds[0], seconds[11] = 5.0, 9.0
    assert find_steady(seconds).steady_from < 5


def test_a_run_that_keeps_getting_faster_says_that_it_never_settled() -> None:
    assert find_steady([100.0 / (step + 1) for step in range(20)]).rule == "unsettled"


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2)])
def test_short_runs_lose_a_fixed_share(count: int, cut: int) -> None:
    warmup = find_steady([9.0, *[1.0] * (count - 1)])
    assert (warmup.steady_from, warmup.rule) == (cut, "fixed share")


def test_rates_are_by_the_mean_step_of_the_slowest_rank(synthetic_record) -> None:
    record = synthetic_record()
    summary = summarise(record)
    slowest = [max(rank.step_seconds[step] for rank in record.ranks) for step in range(20)]
    assert summary.step_seconds == pytest.approx(slowest)
    assert summary.median_step_seconds == pytest.approx(np.median(slowest[summary.steady_from :]))
    assert summary.mean_step_seconds == pytest.approx(np.mean(slowest[summary.steady_from :]))
    assert summary.tokens_per_second_per_processor == pytest.approx(2**20 / 16 / summary.mean_step_seconds)
    flops = record.work.model_flops_per_step / 16 / summary.mean_step_seconds
    assert summary.tflops_per_second_per_processor == pytest.approx(flops / 1e12)
    assert summary.mfu == pytest.approx(flops / 353.9e12)


def test_without_a_known_peak_there_is_no_mfu(synthetic_record) -> None:
    unknown = {"peak_flops_per_second": None, "peak_source": None}
    assert summarise(synthetic_record(device=unknown)).mfu is None


def test_spread_skew_phases_and_memory_are_those_of_the_samples(synthetic_record) -> None:
    summary = summarise(synthetic_record(noise=0.01))
    assert summary.p5_step_seconds < summary.median_step_seconds < summary.p95_step_seconds
    assert 0.004 < summary.cv < 0.02
    assert 0 < summary.skew < 0.01
    assert summary.coverage == pytest.approx(0.99)
    assert summary.communication_share == pytest.approx(0.2)
    assert summary.phase_seconds["backward"] == pytest.approx(0.52 * summary.median_step_seconds, rel=0.02)
    assert summary.peak.max_bytes == 52 * 2**30
    assert (summary.peak.max_rank, summary.peak.min_rank) == (2, 0)
    assert summary.loss_first == 11.8
    assert summary.loss_last == pytest.approx(11.8 * 0.97**19)


def test_communication_that_one_rank_did_not_measure_has_no_share(synthetic_record) -> None:
    record = synthetic_record()
    ranks = [rank.model_dump() for rank in record.ranks]
    ranks[3]["communication_seconds"] = []
    assert summarise(synthetic_record(ranks=ranks)).communication_share is None


def test_a_phase_that_only_some_ranks_have_counts_as_zero_on_the_others(synthetic_record) -> None:
    ranks = [rank.model_dump() for rank in synthetic_record(noise=0.0).ranks]
    for rank in ranks[:8]:
        rank["phases_seconds"]["loss"] = [1.0] * 20
    assert summarise(synthetic_record(ranks=ranks)).phase_seconds["loss"] == pytest.approx(0.5)


def test_a_record_without_steps_has_no_summary(synthetic_record) -> None:
    void = synthetic_record(steps=0, valid=False, void_reasons=["died"])
    with pytest.raises(ValueError, match="holds no steps"):
        summarise(void)


def test_the_ideal_bubble_is_the_textbook_one() -> None:
    assert ideal_bubble(1, 8) == 0
    assert ideal_bubble(2, 64) == pytest.approx(1 / 65)
    assert ideal_bubble(4, 8, chunks=2) == pytest.approx(3 / 19)


@pytest.mark.parametrize("micro_batches", [2, 8, 64])
def test_a_schedule_without_any_loss_has_the_ideal_bubble(synthetic_record, micro_batches: int) -> None:
    """Two stages: forwards of one second, backwards of two. The last stage is through two seconds before the first, and
    waits for it in the next phase."""
    layout, work = {"pipeline": 2}, {"num_micro_batches": micro_batches}
    ranks = [rank.model_dump() for rank in synthetic_record().ranks]
    for rank in ranks:
        waits = {0: 3.0, 1: 1.0}[rank["stage"]]
        seconds = {"forward": micro_batches, "backward": 2 * micro_batches, "pipeline": waits, "gradients": 3.0 - waits}
        rank["phases_seconds"] = {name: [float(each)] * 20 for name, each in seconds.items()}
    record = synthetic_record(ranks=ranks, layout=layout, work=work)
    ideal = ideal_bubble(2, micro_batches)
    assert summarise(record).bubble_measured == pytest.approx(ideal)
    assert bubble_of_step(record, -1) == bubble_of_step(record, 3) == pytest.approx(ideal)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=64))
def test_imbalance_lies_between_even_and_all_on_one(tokens: list[int]) -> None:
    ratio = imbalance(tokens)
    assert ratio is None if not any(tokens) else 1 - 1e-12 <= ratio <= len(tokens) + 1e-12  # type: ignore[operator]

"""A step's prediction from timed operators: looked up, interpolated, added up over ranks and cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.calibrate.calibration import Findings, device_of, merged
from bench.calibrate.collectives import CollectiveTime, lines
from bench.calibrate.crowding import Miss, crowd_misses, crowding_of
from bench.calibrate.host import LoneStep
from bench.calibrate.operators import OperatorTimes, Timed
from bench.plan.device import Device, load_device, write_device
from bench.plan.measured import Crowding, TimedOperator
from bench.plan.measured_device import (
    CollectiveCalls,
    Curve,
    OperatorCalls,
    OperatorTable,
    Shape,
    StepCounts,
    crowding_factors,
    exchange_seconds,
    line_of,
    predict_measured,
)

_CORES = 2
_PRODUCT = OperatorCalls("forward", "experts", "mm(a)", "mm float32 nt", 2 * 64**3, 3 * 4 * 64**2, 10)
_UPDATE = OperatorCalls("optimizer", "outside the model", "add(b)", "add float32", 100, 1200, 4)
_COUNTS = StepCounts(0, 0, 1, (_PRODUCT, _UPDATE), ())


def _device(step_seconds: float = 1.0) -> Device:
    timed = (
        Timed("mm(a)", "mm float32 nt", 2 * 64**3, 3 * 4 * 64**2, (64, 64, 64), 1e-2),
        Timed("add(b)", "add float32", 100, 1200, None, 1e-3),
    )
    times = OperatorTimes(_COUNTS, timed, (), 5, 1000)
    heard = [CollectiveTime("all_reduce", 2, size, 1e-4 + size / 1e9) for size in (1 << 10, 1 << 16, 1 << 22)]
    device = device_of("cpu", Findings([times], [LoneStep(step_seconds, {})], lines(heard, 2, _CORES)), "a processor")
    return device.model_copy(update={"cores": _CORES})


def _shape(ranks: int, pipeline: int = 1, micro_batches: int = 4) -> Shape:
    return Shape(ranks, pipeline, 1, micro_batches)


def test_the_rank_that_was_calibrated_is_predicted_as_it_was_measured() -> None:
    found = predict_measured([_COUNTS], _shape(1), _device(step_seconds=0.5))
    assert found.step_seconds == pytest.approx(0.5)
    assert found.looked_up == 1.0
    assert found.terms["passes"] == pytest.approx(0.1)
    assert found.terms["once"] == pytest.approx(0.004)


def test_ranks_that_share_cores_add_up_and_those_that_do_not_run_beside_each_other() -> None:
    device = _device()
    alone = predict_measured([_COUNTS], _shape(1), device).step_seconds
    assert predict_measured([replace(_COUNTS, ranks_alike=2)], _shape(2), device).step_seconds == pytest.approx(alone)
    assert predict_measured([replace(_COUNTS, ranks_alike=8)], _shape(8), device).step_seconds == pytest.approx(
        8 / _CORES * alone
    )


def test_a_pipeline_has_a_bubble_only_where_its_ranks_have_cores_of_their_own() -> None:
    device = _device()
    stages = [_COUNTS, replace(_COUNTS, rank=1, stage=1)]
    found = predict_measured(stages, _shape(2, pipeline=2, micro_batches=4), device)
    passes = found.terms["passes"] + found.terms["host of passes"]
    assert found.terms["bubble"] == pytest.approx(passes / 4)
    crowded = [replace(each, ranks_alike=2) for each in stages]
    assert "bubble" not in predict_measured(crowded, _shape(4, pipeline=2), device).terms


def test_an_exchange_takes_its_line_and_one_that_was_not_timed_the_links() -> None:
    device = _device()
    assert device.measured is not None
    rows = device.measured.collectives
    calls = CollectiveCalls("forward", "tensor", 2, "all_reduce", 3, 3 << 20)
    assert exchange_seconds(calls, 2, rows, device) == pytest.approx(3e-4 + (3 << 20) / 1e9, rel=1e-3)
    assert exchange_seconds(replace(calls, ranks=1), 2, rows, device) == 0.0
    other = replace(calls, operation="all_to_all_single")
    links = device.links
    assert exchange_seconds(other, 2, rows, device) == pytest.approx(
        3 * (links.call_seconds.value + links.rank_seconds.value) + other.bytes / links.bytes_a_second.value
    )


def test_crowding_lies_between_the_jobs_that_were_run() -> None:
    rows = [Crowding(job_ranks=2, factor=1.1, computing_factor=1.2), Crowding(job_ranks=8, factor=1.4)]
    assert crowding_factors(rows, 1) == (1.0, 1.0)
    assert crowding_factors(rows, 2) == pytest.approx((1.1, 1.2))
    factor, of_computing = crowding_factors(rows, 4)
    assert 1.1 < factor < 1.4
    assert 1.0 < of_computing < 1.2
    assert crowding_factors(rows, 16) == pytest.approx((1.4, 1.0))
    assert crowding_factors((), 16) == (1.0, 1.0)


def test_crowding_makes_calls_of_exchanges_and_computing_longer_and_where_cores_are_shared_computing_alone() -> None:
    """Not what their bytes take: all ranks copied theirs when they were timed."""
    exchange = CollectiveCalls("optimizer", "data", 2, "all_reduce", 3, 3 << 22)
    device, counts = _device(), replace(_COUNTS, ranks_alike=2, collectives=(exchange,))
    crowding = [Crowding(job_ranks=2, factor=3.0, computing_factor=1.5), Crowding(job_ranks=4, factor=3.0)]
    measured = device.measured
    assert measured is not None
    crowded = device.model_copy(update={"measured": measured.model_copy(update={"crowding": crowding})})
    before, after = (predict_measured([counts], _shape(2), each) for each in (device, crowded))
    assert before.crowded_seconds == pytest.approx(3e-4, rel=1e-3)
    assert before.terms["exchange"] == pytest.approx(3e-4 + (3 << 22) / 1e9, rel=1e-3)
    computing = before.step_seconds - before.terms["exchange"]
    assert after.step_seconds == pytest.approx(before.step_seconds + 2 * 3e-4 + 0.5 * computing)
    assert "calls of exchange" not in after.terms
    counts = replace(counts, ranks_alike=4)
    before, after = (predict_measured([counts], _shape(4), each) for each in (device, crowded))
    copied = 4 * (3 << 22) / 1e9 / _CORES  # what their bytes take, and no call
    assert before.terms["exchange"] == pytest.approx(copied, rel=1e-3)
    assert after.step_seconds == pytest.approx(3 * (before.step_seconds - copied) + copied)


def _shared(step: float, predicted: float, crowded: float) -> Miss:
    return Miss(step, predicted, crowded, has_cores=False)


def test_where_cores_are_shared_the_factor_is_the_one_that_jobs_share() -> None:
    same = [_shared(step, step - 0.5 * crowded, crowded) for step, crowded in ((2.0, 1.0), (9.0, 3.0))]
    assert crowding_of(same) == pytest.approx((1.5, 1.0))
    assert crowding_of([_shared(1.0, 1.0, 0.0)]) == pytest.approx((1.0, 1.0))  # nothing to make longer
    between = crowding_of([_shared(1.0, 0.5, 0.5), _shared(1.0, 0.0, 0.5)])
    assert between == pytest.approx((2.5, 1.0))
    assert crowding_of([_shared(1.0, -99.0, 1.0)]) == pytest.approx((20.0, 1.0))


@given(st.floats(0.5, 10.0), st.floats(0.9, 1.4))
def test_with_a_core_each_calls_and_computing_have_a_factor_each(calls: float, computing: float) -> None:
    parts = ((2.0, 0.5, 0.1), (3.0, 0.4, 0.3), (9.0, 1.0, 0.2))  # alone, exchange, of it the calls
    misses = [
        Miss(computing * alone + exchange + (calls - 1) * own, alone + exchange, own, exchange)
        for alone, exchange, own in parts
    ]
    assert crowding_of(misses) == pytest.approx((calls, computing), rel=1e-6)


def test_without_jobs_beside_each_other_no_process_is_started_to_count_them() -> None:
    """As on a GPU or NPU, whose process may start no rank of a CPU."""
    device = load_device("h100-sxm")
    assert crowd_misses(device, [], [[], [], []]) == []


def test_a_curve_passes_through_what_was_timed() -> None:
    sizes = (10**3, 10**5, 10**7)
    timed = [
        TimedOperator(signature=str(size), kind="mul float32", flops=0, bytes=size, seconds=seconds)
        for size, seconds in zip(sizes, (1e-6, 2e-5, 9e-3), strict=True)
    ]
    curve = Curve(timed)
    for size, seconds in zip(sizes, (1e-6, 2e-5, 9e-3), strict=True):
        assert curve.seconds(0, size) == pytest.approx(seconds, rel=1e-6)


_WORK = st.integers(0, 10**12)


@given(
    rows=st.lists(st.tuples(_WORK, _WORK, st.floats(1e-7, 10.0)), min_size=4, max_size=12),
    flops=_WORK,
    num_bytes=_WORK,
    more_flops=_WORK,
    more_bytes=_WORK,
)
def test_more_work_never_takes_less(
    rows: list[tuple[int, int, float]], flops: int, num_bytes: int, more_flops: int, more_bytes: int
) -> None:
    timed = [
        TimedOperator(signature=f"mm({index})", kind="mm float32", flops=work, bytes=moved, seconds=seconds)
        for index, (work, moved, seconds) in enumerate(rows)
    ]
    table = OperatorTable(timed)
    less = table.interpolated("mm float32", flops, num_bytes)
    more = table.interpolated("mm float32", flops + more_flops, num_bytes + more_bytes)
    assert 0.0 <= less <= more * (1 + 1e-9)


@given(a=st.floats(1e-7, 1e-4), b=st.floats(1e-13, 1e-9), c=st.floats(1e-12, 1e-9))
def test_a_line_that_was_planted_is_found(a: float, b: float, c: float) -> None:
    sizes = [(f, n) for f in (10**3, 10**6, 10**9) for n in (10**3, 10**5, 10**7)]
    timed = [
        TimedOperator(
            signature=str(size), kind="mm", flops=size[0], bytes=size[1], seconds=a + b * size[0] + c * size[1]
        )
        for size in sizes
    ]
    line = line_of(timed)
    for flops, num_bytes in sizes:
        assert line[0] + line[1] * flops + line[2] * num_bytes == pytest.approx(a + b * flops + c * num_bytes, rel=1e-3)


def test_a_kind_that_was_never_timed_is_interpolated_among_all() -> None:
    timed = [
        TimedOperator(signature=f"mm({n})", kind="mm float32 nt", flops=n, bytes=n, seconds=1e-9 * n)
        for n in (1, 9, 99, 999)
    ]
    assert OperatorTable(timed).interpolated("cumsum int64", 500, 500) == pytest.approx(5e-7, rel=1e-3)


def test_a_signature_that_two_ranks_timed_is_their_median() -> None:
    one = Timed("mm(a)", "mm", 1, 1, None, 1.0)
    (found,) = merged([one, replace(one, seconds=3.0), replace(one, seconds=2.0)])
    assert found.seconds == 2.0


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    device = _device()
    path = tmp_path / "device.json"
    write_device(path, device)
    assert load_device(str(path)) == device


def test_a_profile_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    write_device(path, _device())
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": -', 1))
    with pytest.raises(ValueError, match="seconds") as refused:
        load_device(str(path))
    assert "\n" not in str(refused.value)


def test_a_profile_without_timed_operators_predicts_nothing() -> None:
    device = _device().model_copy(update={"measured": None})
    with pytest.raises(ValueError, match="python -m bench calibrate"):
        predict_measured([_COUNTS], _shape(1), device)

"""A step whose schedule is played: the formula's where stages are equal, and what it leaves out where they are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.device import load_device
from bench.plan.played import played, predict_played
from bench.plan.predict import place_times, predict
from bench.plan.schedule import play
from bench.plan.work import Exchange, Product, Work
from tests.bench.plan.made_work import work_of_stages

H100 = load_device("h100-sxm").with_efficiency(products=0.7, memory=0.6, attention=0.5, layer_seconds=6e-5)


def with_backward(work: Work) -> Work:
    """A backward of twice the forward's products."""
    forward = work.products[0]
    return replace(work, products=(forward, replace(forward, phase="backward", calls=2 * forward.calls)))


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_equal_stages_take_what_the_formula_says(rows: int, stages: int, chunks: int, rounds: int) -> None:
    chunks = chunks if stages > 1 else 1
    work = with_backward(
        work_of_stages([rows] * stages, pipeline=stages, chunks=chunks, micro_batches=rounds * stages, group=2)
    )
    np.testing.assert_allclose(predict_played(work, H100).step_seconds, predict(work, H100).step_seconds)


@given(st.integers(1, 4000), st.integers(1, 9))
def test_a_stage_alone_never_waits(rows: int, micro_batches: int) -> None:
    work = with_backward(work_of_stages([rows], pipeline=1, micro_batches=micro_batches))
    assert predict_played(work, H100).terms["bubble"].tolist() == [0]  # though sums of other orders round otherwise


def test_a_third_of_the_work_is_a_third_of_a_stage_s_time_with_its_host_and_its_transfers() -> None:
    """By hand, two micro-batches: forward 1 and backward 2 of the first stage, 1.5 of both of the last. The first
    stage begins its backwards at 2.5 and at 4.5, and its forwards and the last stage's work are done before.
    """
    work = with_backward(work_of_stages([500_000, 250_000], pipeline=2, micro_batches=2))
    one = np.ones(2, np.int64)
    sent = Exchange("pipeline", "pipeline", "send", "bfloat16", "micro_batch", one, 2**20 * one, 2 * one, one)
    work = replace(work, attention=(), traffic=(), exchanges=(sent,))
    times = place_times(work, H100)
    assert (times.micro_batch["host"] > 0).all()
    assert (times.micro_batch["pipeline"] > 0).all()
    first, last = times.of_micro_batch
    assert first / 3 < last < first * 2 / 3
    assert played(work, H100, 0).seconds == pytest.approx(first / 3 + last + 2 * (first * 2 / 3))


def test_while_the_host_launches_a_forward_takes_its_share_of_the_launches() -> None:
    """By hand, as above: a third of the launches is a third of the time, whatever the device does."""
    device = H100.model_copy(update={"host": H100.host.model_copy(update={"is_hidden": True})})
    work = with_backward(work_of_stages([500, 500], pipeline=2, micro_batches=2))
    forward, backward = (replace(each, calls=np.array([60, 30]) * n) for n, each in enumerate(work.products, start=1))
    for rows in (500, 5):  # of a forward
        slighter = replace(forward, rows=np.full(2, rows))
        work = replace(work, products=(slighter, backward), attention=(), traffic=(), exchanges=())
        first, last = place_times(work, device).of_micro_batch
        assert first == pytest.approx(180 * device.host.seconds_a_call.value + 2 * 6e-5)
        assert first / 3 < last < first * 2 / 3
        assert played(work, device, 0).seconds == pytest.approx(first / 3 + last + 2 * (first * 2 / 3))


def test_a_stage_without_work_delays_nobody() -> None:
    work = with_backward(work_of_stages([400, 400, 900], pipeline=3, micro_batches=8))
    of_ends = np.array([1, 0, 1])
    products = tuple(replace(each, calls=each.calls * of_ends) for each in work.products)
    work = replace(work, layers=work.layers * of_ends, products=products, attention=(), traffic=(), exchanges=())
    first, none, last = place_times(work, H100).of_micro_batch
    assert none == 0
    with np.errstate(all="raise"):
        assert played(work, H100, 0).seconds == pytest.approx(first + 8 * last)


def test_stages_before_the_slowest_one_hide_behind_it() -> None:
    """The formula takes every stage's fill as the mean's; here the first stage is slow, and the others only follow."""
    work = with_backward(work_of_stages([800_000, 10_000, 10_000, 10_000], pipeline=4, micro_batches=8))
    found = predict_played(work, H100)
    busy = sum(found.terms[name][0] for name in ("products", "attention", "memory", "host"))
    # it never waits: it has forwards to run until the first gradient is back
    assert found.terms["bubble"][0] == pytest.approx(0, abs=1e-9 * busy)
    assert predict(work, H100).terms["bubble"][0] > 0.05 * busy
    np.testing.assert_allclose(sum(found.terms.values()), found.step_seconds)


def test_a_place_that_stands_for_several_is_played_as_often() -> None:
    every = with_backward(work_of_stages([100, 700, 700, 700, 900], pipeline=5, micro_batches=7))
    some = with_backward(work_of_stages([100, 700, 900], pipeline=5, stages=[0, 1, 4], micro_batches=7))
    assert played(some, H100, 0).seconds == pytest.approx(played(every, H100, 0).seconds)
    assert len(played(some, H100, 0).busy_seconds) == 5


def test_the_head_is_in_the_last_chunk_alone() -> None:
    work = with_backward(work_of_stages([500, 500], pipeline=2, chunks=2, micro_batches=4))
    rows = np.array([0, 4000])
    head = Product("head", "forward", rows, rows, rows, np.array([0, 1]))
    with_head = replace(work, products=(*work.products, head))
    found = played(with_head, H100, 0)
    as_layers = Product("experts", "forward", rows, rows, rows, np.array([0, 1]))
    spread = played(replace(work, products=(*work.products, as_layers)), H100, 0)
    assert found.busy_seconds == pytest.approx(spread.busy_seconds)
    assert found.seconds != pytest.approx(spread.seconds)


def test_the_embedding_is_of_the_first_stage_s_first_chunk_and_the_head_of_the_last_stage_s_last() -> None:
    device = H100.with_efficiency(layer_seconds=0)
    work = with_backward(work_of_stages([500_000, 300_000, 400_000], pipeline=3, chunks=2, micro_batches=6))
    layers, *_ = work.products
    embedding = replace(layers, component="embedding", calls=np.array([4, 0, 0]))
    head = replace(layers, component="head", calls=np.array([0, 0, 5]))
    ends = (embedding, head, replace(head, phase="backward", calls=2 * head.calls))
    work = replace(work, products=(*work.products, *ends), attention=(), traffic=(), exchanges=())
    of_layers, of_embedding, of_head = (
        place_times(replace(work, products=(each,)), device).of_micro_batch for each in (layers, embedding, head)
    )
    forward_SC = np.repeat(of_layers[:, None] / 2, 2, axis=1)
    backward_SC = 2 * forward_SC
    forward_SC[0, 0] += of_embedding[0]
    forward_SC[2, 1] += of_head[2]
    backward_SC[2, 1] += 2 * of_head[2]
    expected = play(forward_SC, backward_SC, 0.0, 6)
    found = played(work, device, 0)
    assert found.busy_seconds == pytest.approx(expected.busy_seconds)
    assert found.seconds == pytest.approx(expected.seconds)


def test_on_shared_cores_nothing_is_played() -> None:
    work = work_of_stages([100, 900], pipeline=2)
    shared = H100.model_copy(update={"cores": 1})
    assert predict_played(work, shared).step_seconds[0] == predict(work, shared).step_seconds[0]

"""The time of a step: laws that hold of any work, and a job by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.device import Device, load_device
from bench.plan.grok1_work import work_of
from bench.plan.layouts import layouts_of
from bench.plan.measured import Measured, TimedAttention, TimedProduct, TimedTraffic
from bench.plan.operators import attention_seconds, traffic_seconds
from bench.plan.predict import OF_STEP, TERMS, place_times, predict, term_of
from bench.plan.work import Attention, Exchange, Traffic, Work
from grok1.config.load import load_recipe
from tests.bench.plan.made_work import work_of_stages

H100 = load_device("h100-sxm")


def slowed(device: Device, factor: float) -> Device:
    """Every rate divided, every latency multiplied."""

    def scaled(model: Any) -> Any:
        update = {}
        for name in type(model).model_fields:
            each = getattr(model, name)
            if hasattr(each, "value"):
                by = factor if name.endswith("_seconds") or name.startswith("seconds_") else 1 / factor
                is_size = name in ("bytes",)
                update[name] = each if is_size else each.model_copy(update={"value": each.value * by})
        return model.model_copy(update=update)

    layer = device.efficiency.layer_seconds.value * factor
    parts = {name: scaled(getattr(device, name)) for name in ("peak", "memory", "links", "host")}
    return device.model_copy(update=parts).with_efficiency(layer_seconds=layer)


WORKS = st.builds(
    lambda rows, chunks, rounds, group: work_of_stages(
        rows, pipeline=len(rows), chunks=chunks, micro_batches=rounds * len(rows), group=group
    ),
    st.lists(st.integers(1, 8192), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([1, 2, 8, 16]),
)


@given(WORKS, st.sampled_from([None, 1, 4, 64]))
def test_terms_add_up_to_the_step_and_none_is_negative(work: Work, cores: int | None) -> None:
    found = predict(work, H100.model_copy(update={"cores": cores}))
    assert set(found.terms) == set(TERMS)
    np.testing.assert_allclose(sum(found.terms.values()), found.step_seconds)
    assert all((each >= 0).all() and np.isfinite(each).all() for each in found.terms.values())


@given(WORKS, st.floats(1.1, 10))
def test_slower_by_a_factor_takes_so_much_longer(work: Work, factor: float) -> None:
    slow = predict(work, slowed(H100, factor)).step_seconds
    np.testing.assert_allclose(slow, factor * predict(work, H100).step_seconds, rtol=1e-9)


@settings(max_examples=200)
@given(
    WORKS,
    st.sampled_from(["peak.bf16", "memory.bytes_a_second", "links.bytes_a_second", "links.nic_bytes_a_second"]),
    st.floats(1, 10),
)
def test_a_faster_device_is_never_slower(work: Work, name: str, factor: float) -> None:
    section, field = name.split(".")
    part = getattr(H100, section)
    rate = getattr(part, field)
    fast = H100.model_copy(
        update={section: part.model_copy(update={field: rate.model_copy(update={"value": rate.value * factor})})}
    )
    # what launching hides may show where the device got faster, so that equality needs a little room
    assert (predict(work, fast).step_seconds <= predict(work, H100).step_seconds * (1 + 1e-9)).all()


@given(WORKS)
def test_a_rank_alone_has_no_collectives(work: Work) -> None:
    alone = replace(work, exchanges=tuple(replace(each, ranks=np.ones_like(each.ranks)) for each in work.exchanges))
    terms = predict(alone, H100).terms
    assert all(terms[name].sum() == 0 for name in ("tensor", "expert", "context", "pipeline", "data"))


@given(st.integers(1, 6000), st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
def test_equal_stages_have_the_bubble_of_the_formula(rows: int, stages: int, chunks: int, rounds: int) -> None:
    micro_batches = rounds * stages
    work = work_of_stages([rows] * stages, pipeline=stages, chunks=chunks, micro_batches=micro_batches)
    found = predict(work, H100)
    (busy,) = found.step_seconds - found.terms["bubble"] - sum(found.terms[name] for name in OF_STEP)
    assert found.terms["bubble"][0] == pytest.approx(busy / micro_batches * (stages - 1) / chunks)


@given(st.integers(2, 6), st.integers(1, 5))
def test_more_replicas_with_as_many_more_sequences_take_as_long_but_for_their_exchange(
    stages: int, rounds: int
) -> None:
    rows = [512] * stages
    one = work_of_stages(rows, pipeline=stages, micro_batches=rounds * stages, group=1)
    many = replace(one, world_size=one.world_size * 8)
    assert predict(one, H100).step_seconds == predict(many, H100).step_seconds
    half = predict(replace(one, micro_batches=2 * one.micro_batches), H100).step_seconds
    assert (half > predict(one, H100).step_seconds).all()


def test_a_place_stands_for_the_stages_between_it_and_the_last() -> None:
    all_stages = work_of_stages([100, 700, 700, 700, 900], pipeline=5)
    some = work_of_stages([100, 700, 900], pipeline=5, stages=[0, 1, 4])
    np.testing.assert_allclose(predict(some, H100).step_seconds, predict(all_stages, H100).step_seconds)


def test_jobs_are_apart() -> None:
    alone = [work_of_stages(rows, pipeline=len(rows)) for rows in ([10, 900], [4000], [70, 800])]
    stages = np.array([2, 2, 1, 2, 2])
    together = replace(
        work_of_stages([10, 900, 4000, 70, 800], pipeline=1, stages=[0, 1, 0, 0, 1], layout=[3, 3, 7, 8, 8]),
        pipeline=stages, world_size=stages,
    )  # fmt: skip
    found = predict(together, H100)
    assert found.layout.tolist() == [3, 7, 8]
    expected = [predict(each, H100).step_seconds[0] for each in alone]
    np.testing.assert_allclose(found.step_seconds, expected)


def test_a_product_by_hand() -> None:
    device = H100.with_efficiency(products=0.5, shape_penalty=300, memory=1.0)
    work = work_of_stages([1000], pipeline=1)
    (seconds,) = place_times(work, device).micro_batch["products"]
    flops = 2 * 1000 * 1024 * 2048
    assert seconds == pytest.approx(3 * flops / (989e12 * 0.5) * (1 + 100 * (1 / 1000 + 1 / 1024 + 1 / 2048)))
    thin = work_of_stages([1], pipeline=1)
    moved = 2 * (2048 + 2048 * 1024 + 1024)
    (seconds,) = place_times(thin, device.with_efficiency(shape_penalty=0)).micro_batch["products"]
    assert seconds == pytest.approx(3 * moved / 3.35e12)


def test_narrower_products_leave_attention_as_it_is() -> None:
    work = work_of_stages([4000], pipeline=1)
    wide, narrow = predict(work, H100).terms, predict(work, H100, "fp8").terms
    assert narrow["products"][0] < wide["products"][0]
    assert narrow["attention"][0] == wide["attention"][0]


def test_what_is_not_hidden_shows() -> None:
    work = work_of_stages([1000], pipeline=1, group=8)
    hidden, shown = predict(work, H100).terms["data"], predict(replace(work, hides_data=False), H100).terms["data"]
    assert hidden[0] == pytest.approx(shown[0] * H100.efficiency.data_exposed.value)


def test_of_a_step_s_exchanges_only_those_that_are_overlapped_are_hidden() -> None:
    """Reduction and gathering each for itself, as the recipe has them; what follows the passes shows whole."""

    def data_seconds(*settings: str, exposed: float = 0.25) -> float:
        keys = ("gradient_reduction", "param_gather")
        words = [f"kernels.{key}={value}" for key, value in zip(keys, settings, strict=False)]
        of = layouts_of(load_recipe("grok1-40b", words))
        return float(predict(work_of(of), H100.with_efficiency(data_exposed=exposed)).terms["data"][0])

    whole, gathers = data_seconds(), data_seconds("overlapped")
    both, none = data_seconds("overlapped", "overlapped"), data_seconds("overlapped", "overlapped", exposed=0.0)
    assert data_seconds(exposed=0.0) == whole > gathers > both > none > 0  # what tensor ranks sum, the norm, the report
    reduced, gathered = (whole - gathers) / 0.75, (gathers - both) / 0.75
    assert reduced == pytest.approx(2 * gathered, rel=0.1)  # gradients are in fp32, weights in bf16; calls wait, too
    assert whole == pytest.approx(reduced + gathered + none, rel=0.05)  # of other buckets
    assert data_seconds("overlapped", exposed=0.0) == pytest.approx(gathered + none, rel=0.01)


def test_what_shows_of_exchanges_within_the_products_is_the_profile_s_own_share_where_it_has_one() -> None:
    def tensor_seconds(linear: str, device: Device) -> float:
        of = layouts_of(load_recipe("grok1-40b", [f"kernels.linear={linear}"]))
        return float(predict(work_of(of), device).terms["tensor"][0])

    ascend = load_device("ascend-a2-376t")
    assert ascend.efficiency.fused_tensor_exposed is not None
    share = ascend.efficiency.fused_tensor_exposed.value / ascend.efficiency.tensor_exposed.value
    assert share < 0.5
    assert tensor_seconds("mc2", ascend) == pytest.approx(share * tensor_seconds("megatron", ascend))
    assert H100.efficiency.fused_tensor_exposed is None
    assert tensor_seconds("mc2", H100) == tensor_seconds("megatron", H100) > 0
    moved = H100.with_efficiency(fused_tensor_exposed=0.0)
    assert tensor_seconds("mc2", moved) == 0 < tensor_seconds("megatron", moved)


def test_launching_counts_where_it_is_longer_or_where_nothing_hides_it() -> None:
    work = work_of_stages([1], pipeline=1, micro_batches=1)
    calls, layers = 3 + 2 + 4 + 2 + 2, 2 * H100.efficiency.layer_seconds.value
    host = H100.host
    slow = host.model_copy(update={"seconds_a_call": host.seconds_a_call.model_copy(update={"value": 1e-3})})
    busy = sum(v[0] for k, v in place_times(work, H100).micro_batch.items() if k != "host")
    hidden = predict(work, H100.model_copy(update={"host": slow})).terms["host"][0]
    assert hidden == pytest.approx(calls * 1e-3 - busy + layers)
    shown = predict(work, H100.model_copy(update={"host": slow.model_copy(update={"is_hidden": False})})).terms["host"]
    assert shown[0] == pytest.approx(calls * 1e-3 + layers)
    mine = {"host": slow.model_copy(update={"is_hidden": False}), "measured": Measured(source="here")}
    timed = predict(work, H100.model_copy(update=mine)).terms["host"]
    assert timed[0] == pytest.approx((calls - 4) * 1e-3 + layers)  # collectives have their launch in their time


def test_the_loss_is_timed_as_what_is_outside_the_model() -> None:
    rates = {"outside the model": 1e3, "loss": 1e9}
    measured = Measured(
        source="here",
        traffic=[
            TimedTraffic(component=name, phase="forward", bytes_a_second=rate, call_seconds=0.0)
            for name, rate in rates.items()
        ],
    )
    one = np.ones(1, np.int64)
    loss = Traffic("loss", "forward", "micro_batch", 5000 * one, one)
    assert traffic_seconds(loss, H100.model_copy(update={"measured": measured}))[0] == pytest.approx(5.0)


def test_ranks_that_share_cores_take_the_work_of_all_over_the_cores() -> None:
    work = work_of_stages([100, 300, 500, 4000], pipeline=4, world=16)
    own, two = predict(work, H100), predict(work, H100.model_copy(update={"cores": 2}))
    times = place_times(work, H100)
    everything = 4 * (4 * times.of_micro_batch + times.of_step).sum()
    assert two.step_seconds[0] == pytest.approx(everything / 2)
    assert two.terms["bubble"][0] == 0
    many = predict(work, H100.model_copy(update={"cores": 16}))
    assert many.step_seconds[0] == own.step_seconds[0]


def test_timed_operators_are_believed_at_the_shapes_that_were_timed() -> None:
    work = work_of_stages([256, 1000], pipeline=2)
    measured = Measured(
        source="here",
        products=[TimedProduct(rows=256, columns=1024, depth=2048, seconds=0.5),
                  TimedProduct(rows=4096, columns=1024, depth=2048, seconds=0.6)],
        attention=[TimedAttention(phase="forward", flops=256 * 500_000, seconds=0.25)],
        traffic=[TimedTraffic(component="norms", phase="forward", bytes_a_second=1e6, call_seconds=0.01)],
    )  # fmt: skip
    mine = H100.model_copy(update={"measured": measured})
    times = place_times(work, mine).micro_batch
    assert times["products"][0] == pytest.approx(3 * 0.5)
    assert times["attention"][0] == pytest.approx(2 * 0.25)
    assert times["memory"][0] == pytest.approx(256 * 8192 / 1e6 + 4 * 0.01)
    doubled = [each.model_copy(update={"seconds": 2 * each.seconds}) for each in measured.products]
    slow = H100.model_copy(update={"measured": measured.model_copy(update={"products": doubled})})
    np.testing.assert_allclose(place_times(work, slow).micro_batch["products"], 2 * times["products"])


@pytest.mark.parametrize(
    ("phase", "group", "term"),
    [
        ("forward", "tensor", "tensor"), ("recompute", "tensor x context", "tensor"),
        ("forward", "expert", "expert"), ("backward", "expert-tensor", "expert"),
        ("forward", "expert-tensor x expert", "expert"), ("forward", "context", "context"),
        ("pipeline", "pipeline", "pipeline"), ("pipeline", "world", "pipeline"),
    ],
)  # fmt: skip
def test_exchanges_belong_to_terms(phase: str, group: str, term: str) -> None:
    one = np.ones(1, np.int64)
    assert term_of(Exchange(phase, group, "all_reduce", "float32", "micro_batch", one, one, one, one)) == term
    assert term_of(Exchange(phase, group, "all_reduce", "float32", "step", one, one, one, one)) == "data"


def test_attention_by_hand() -> None:
    work = work_of_stages([1000], pipeline=1)
    (seconds,) = place_times(work, H100.with_efficiency(attention=0.25)).micro_batch["attention"]
    assert seconds == pytest.approx(1000 * 10**6 / (989e12 * 0.25))


def test_a_place_without_attention_takes_no_time_for_it() -> None:
    timed = [TimedAttention(phase="forward", flops=flops, seconds=0.25) for flops in (10**6, 10**9)]
    mine = H100.model_copy(update={"measured": Measured(source="here", attention=timed)})
    attention = Attention("forward", np.array([0, 2 * 10**9]), np.array([0, 2]))
    for device in (H100, mine):
        with np.errstate(all="raise"):
            seconds = attention_seconds(attention, 2, device)
        assert seconds[0] == 0
    assert seconds[1] == pytest.approx(2 * 0.25)


def test_the_terms_of_a_micro_batch_are_the_slowest_stage_s() -> None:
    work = work_of_stages([90_000, 10_000, 300_000], pipeline=3)
    times = place_times(work, H100).micro_batch["products"]
    assert predict(work, H100).terms["products"][0] == pytest.approx(4 * times[2])


@pytest.mark.parametrize(("cores", "times"), [(None, 1), (2, 16 / 2)])
def test_what_a_step_costs_the_host_is_of_each_rank(cores: int | None, times: int) -> None:
    work = work_of_stages([1000] * 4, pipeline=4, world=16)
    fixed = H100.host.seconds_a_step.model_copy(update={"value": 3.0})
    plain = H100.model_copy(update={"cores": cores})
    slow = plain.model_copy(update={"host": H100.host.model_copy(update={"seconds_a_step": fixed})})
    more = predict(work, slow).terms["host"] - predict(work, plain).terms["host"]
    assert more[0] == pytest.approx(3.0 * times)

"""An anchor moves predictions by what it took over what was predicted, and is refused where it cannot be one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bench.plan.anchor import Anchor, anchor_of, anchored_interval, seconds_of_record
from bench.plan.intervals import NEW_KIND, NO_EXPERTS, CalibrationRow
from bench.plan.situations import Situation
from bench.synthetic import build_synthetic_record

JOB = Situation("h100", "16 bits", 0, frozenset({"TP"}), "a program 1", (1.0, 2.0))


def anchored(measured: float = 12.0, predicted: float = 10.0, situation: Situation = JOB) -> Anchor:
    return anchor_of("a run", "family 0", situation, measured, predicted, model_flops=1e15, peak_flops=1e15)


def rows() -> list[CalibrationRow]:
    """Ten families of two rows: within one they differ by 0.01, families lie 0.1 apart."""
    return [
        CalibrationRow(f"row {family} {twin}", f"family {family}", replace(JOB, sizes=(1.0 * family, 1.0 * twin)),
                       0.1 * family + 0.01 * twin, 0.0)
        for family in range(10)
        for twin in range(2)
    ]  # fmt: skip


def test_predictions_move_by_the_anchor_s_factor() -> None:
    interval = anchored_interval(5.0, "family 0", JOB, anchored(), rows())
    assert interval.seconds == pytest.approx(6.0)
    assert anchored().mfu == pytest.approx(1 / 12)
    assert "multiplied with 1.200" in anchored().sentence


def test_what_rows_of_one_family_share_is_gone() -> None:
    interval = anchored_interval(5.0, "family 0", JOB, anchored(), rows())
    assert interval.high == pytest.approx(6 * math.exp(0.01))
    assert "pairs of rows of one family, h100" in interval.rows_of
    assert interval.nearest[0] == "a run"


def test_another_family_is_as_far_as_families_are_apart() -> None:
    interval = anchored_interval(5.0, "family 1", JOB, anchored(), rows())
    assert interval.high is not None
    assert 0.09 < math.log(interval.high / 6) < 0.12


def test_a_run_in_32_bits_is_no_anchor_of_one_in_16() -> None:
    of_32 = replace(JOB, precision="32 bits")
    for job, anchor in ((JOB, of_32), (of_32, JOB)):
        with pytest.raises(ValueError, match=f"in {anchor.precision}, the plan is for h100 in {job.precision}"):
            anchored_interval(5.0, "family 0", job, anchored(situation=anchor), rows())
    wide = anchored_interval(5.0, "family 0", of_32, anchored(situation=of_32), rows())
    assert "dense in 32 bits: no row but the anchor (x2)" in wide.widened


def test_what_has_no_interval_without_an_anchor_has_a_wide_one_with_it() -> None:
    fine = replace(JOB, num_experts=128)
    interval = anchored_interval(5.0, "family 0", fine, anchored(situation=fine), rows())
    assert interval.refused == ""
    assert interval.high == pytest.approx(6 * math.exp(0.02))
    assert "no row but the anchor" in interval.widened[0]


@pytest.mark.parametrize(
    ("change", "factor"), [({"kinds": frozenset({"TP", "CP"})}, NEW_KIND), ({"num_experts": 8}, NO_EXPERTS)]
)
def test_what_the_anchor_does_not_have_widens(change: dict[str, Any], factor: float) -> None:
    interval = anchored_interval(5.0, "family 0", replace(JOB, **change), anchored(), rows())
    assert interval.high == pytest.approx(6 * math.exp(0.01 * factor))


def test_an_anchor_of_another_chip_is_refused() -> None:
    with pytest.raises(ValueError, match="same chip and precision"):
        anchored_interval(5.0, "family 0", replace(JOB, chip="a2"), anchored(), rows())


@pytest.mark.parametrize(
    ("measured", "predicted", "said"),
    [(300.0, 10.0, "20 times apart"), (0.4, 10.0, "20 times apart"), (0.0, 10.0, "positive"), (0.9, 1.0, "MFU")],
)
def test_what_cannot_be_an_anchor_is_refused(measured: float, predicted: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        anchored(measured, predicted)


def test_too_few_pairs_promise_nothing() -> None:
    interval = anchored_interval(5.0, "family 0", JOB, anchored(), rows()[:2])
    assert (interval.low, interval.high) == (None, None)
    assert "2 pairs" in interval.refused


def test_a_record_gives_its_mean_steady_step() -> None:
    record = build_synthetic_record(steps=20)
    assert 0 < seconds_of_record(record) < 1e3
    void = record.model_copy(update={"valid": False, "void_reasons": ["a rank is missing"]})
    with pytest.raises(ValueError, match="void .a rank is missing."):
        seconds_of_record(void)

"""Intervals: which rows speak for a job, what widens them, and where none is promised."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bench.plan.intervals import (
    MIN_ROWS,
    NEW_KIND,
    NO_EXPERTS,
    OTHER_CHIP,
    OTHER_RELEASE,
    CalibrationRow,
    class_of,
    interval_of,
    nearest,
    widening,
)
from bench.plan.published import read_published
from bench.plan.situations import LAYER_ALONE, Situation, distance, own_exchanges, situation_of

JOB = Situation("h100", "16 bits", 0, frozenset({"TP"}), "a program 1", (1.0, 2.0))


def rows(count: int, situation: Situation = JOB, *, log_ratio: float = 0.1, family: str = "") -> list[CalibrationRow]:
    return [
        CalibrationRow(f"row {place}", family or f"family {place}", situation, (-1) ** place * log_ratio, 0.5)
        for place in range(count)
    ]


def test_an_interval_is_the_class_s_residual_around_the_prediction() -> None:
    interval = interval_of(10.0, JOB, rows(20))
    assert interval.low == pytest.approx(10 / math.exp(0.1))
    assert interval.high == pytest.approx(10 * math.exp(0.1))
    assert (interval.rows, interval.families, interval.widened, interval.refused) == (20, 20, (), "")
    assert interval.half_width == pytest.approx(math.exp(0.1) - 1)
    assert interval.sentences == ("90% interval from 20 rows of 20 families: h100, 16 bits, dense",)


def test_the_narrowest_class_of_ten_rows_speaks() -> None:
    coarse, eight = replace(JOB, num_experts=8), replace(JOB, precision="8 bits")
    other = replace(JOB, chip="a2")
    mixed = [*rows(9, coarse), *rows(3), *rows(5, eight), *rows(30, other)]
    assert class_of(coarse, mixed) == ("h100, 16 bits", mixed[:12])
    assert class_of(eight, mixed) == ("h100", mixed[:17])
    assert class_of(replace(JOB, chip="b200"), mixed)[0] == "all chips, 16 bits, dense"
    assert class_of(JOB, rows(MIN_ROWS - 1))[0] == "all chips, precisions and models"


@pytest.mark.parametrize(
    ("change", "factor", "said"),
    [
        ({"chip": "b200"}, OTHER_CHIP, "no row of b200"),
        ({"num_experts": 8, "kinds": frozenset({"TP", "EP"})}, NO_EXPERTS, "no row of a step with experts"),
        ({"kinds": frozenset({"TP", "CP", "recompute"})}, NEW_KIND, "no row with CP, recompute"),
        ({"release": ""}, OTHER_RELEASE, "not stated"),
        ({"release": "a program 2"}, OTHER_RELEASE, "no row of a program 2"),
    ],
)
def test_what_no_row_has_widens_and_is_said(change: dict[str, Any], factor: float, said: str) -> None:
    job = replace(JOB, **change)
    assert widening(job, rows(20))[0] == factor
    interval = interval_of(1.0, job, rows(20))
    assert interval.high == pytest.approx(math.exp(0.1 * factor))
    assert said in interval.sentences[1]


def test_a_layer_of_experts_timed_alone_tells_of_no_step() -> None:
    job = replace(JOB, num_experts=8)
    alone, whole = rows(20, replace(job, kinds=job.kinds | {LAYER_ALONE})), rows(1, job)
    assert widening(job, alone)[0] == NO_EXPERTS
    assert widening(alone[0].situation, alone)[0] == widening(job, [*alone, *whole])[0] == 1.0


def test_reasons_multiply() -> None:
    job = replace(JOB, chip="b200", release="")
    factor, reasons = widening(job, rows(20))
    assert factor == OTHER_CHIP * OTHER_RELEASE
    assert len(reasons) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"num_experts": 8, "kinds": frozenset({"TP", "EP", "DeepEP"})},
            "DeepEP exchanges tokens by a kernel of its own",
        ),
        ({"num_experts": 64}, "64 experts are fine-grained"),
        ({"num_experts": 8, "precision": "8 bits"}, "in 8 bits"),
        ({"precision": "32 bits"}, "products in 32 bits"),
    ],
)
def test_what_the_model_gets_wrong_is_refused(change: dict[str, Any], said: str) -> None:
    interval = interval_of(1.0, replace(JOB, **change), rows(40, replace(JOB, **change)))
    assert (interval.low, interval.high, interval.half_width) == (None, None, None)
    assert said in interval.sentences[0]
    assert "--anchor" in interval.sentences[0]
    assert interval.nearest


def test_too_few_rows_promise_nothing() -> None:
    assert "3 calibration rows are too few" in interval_of(1.0, JOB, rows(3)).refused
    assert "0 calibration rows" in interval_of(1.0, JOB, []).refused


def test_a_family_of_many_rows_does_not_hide_another_s_error() -> None:
    narrow, wide = rows(18, log_ratio=0.01, family="big"), rows(1, log_ratio=0.2, family="small")
    assert interval_of(1.0, JOB, [*narrow, *wide]).high == pytest.approx(math.exp(0.2))


def test_the_nearest_rows_are_of_the_same_chip_and_a_family_each() -> None:
    published = [row for row in read_published().rows if row.is_time]
    calibration = [
        CalibrationRow(row.name, row.architecture.family, situation_of(row, row.chip), 0.0, 0.0) for row in published
    ]
    job = situation_of(next(row for row in published if row.model == "Llama3.1 70B"), "H100 SXM 80GB")
    found = nearest(job, calibration)
    assert found[0].name.startswith("row 142: Llama3.1 70B on 64 H100")
    assert len({row.family for row in found}) == 3
    assert all(row.situation.chip == "H100 SXM 80GB" for row in found)


def test_distance_is_none_to_itself_and_symmetric() -> None:
    other = replace(JOB, chip="a2", sizes=(2.0, 2.0))
    assert distance(JOB, JOB) == 0
    assert distance(JOB, other) == distance(other, JOB) > 8


@pytest.mark.parametrize(
    ("flags", "kernels"),
    [
        ({"dispatcher DeepEP": ""}, {"DeepEP"}),
        ({"moe-enable-deepep": "", "moe-token-dispatcher-type": "flex"}, {"DeepEP"}),
        ({"moe-token-dispatcher-type": "flex"}, {"DeepEP"}),
        ({"moe-token-dispatcher-type": "flex", "moe-flex-dispatcher-backend": "hybridep"}, {"HybridEP"}),
        ({"moe-token-dispatcher-type": "alltoall"}, set()),
    ],
)
def test_kernels_that_exchange_by_themselves_are_known_by_megatron_s_options_too(
    flags: dict[str, str], kernels: set[str]
) -> None:
    row = replace(read_published().rows[0], flags=flags)
    assert own_exchanges(row) == kernels
    assert situation_of(row, "h100-sxm").kinds >= kernels

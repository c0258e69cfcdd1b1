"""Figures in units that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.formats import bytes_unit, flops_unit, percent, rate_unit, seconds_unit, traffic

SECONDS = st.floats(1e-9, 1e6)


@pytest.mark.parametrize(
    ("unit_of", "value", "told"),
    [
        (seconds_unit, 39.8, "39.80 s"),
        (seconds_unit, 0.3343, "334.3 ms"),
        (seconds_unit, 49.45e-6, "49.45 µs"),
        (flops_unit, 1.583e9, "1.583 GFLOP/s"),
        (flops_unit, 103.9e12, "103.9 TFLOP/s"),
        (bytes_unit, 52 * 2**30, "52.00 GiB"),
        (bytes_unit, 327 * 2**20, "327.0 MiB"),
        (rate_unit, 1646.633, "1,646.6"),
        (rate_unit, 47.8591, "47.859"),
    ],
)
def test_a_figure_is_in_the_unit_that_fits(unit_of, value: float, told: str) -> None:
    assert unit_of([value]).told(value) == told


@given(st.lists(SECONDS, min_size=1))
def test_a_column_has_one_unit_and_equal_decimals_and_nothing_reads_as_nothing(values: list[float]) -> None:
    unit = seconds_unit(values)
    shown = [unit.of(value).split()[-1] for value in values]
    assert len({len(each.partition(".")[2]) for each in shown}) == 1
    assert all(float(each.replace(",", "")) > 0 for each in shown)


@given(st.floats(1e-6, 1e6))
def test_a_figure_is_what_it_was_within_its_digits(value: float) -> None:
    unit = seconds_unit([value])
    assert float(unit.of(value).replace(",", "")) * unit.size == pytest.approx(value, rel=6e-4)


def test_what_is_too_small_for_its_column_says_so() -> None:
    unit = seconds_unit([10.0])
    assert (unit.of(0.0), unit.of(0.001), unit.of(-0.001)) == ("0.00", "< 0.01", "> -0.01")
    assert percent(0.123) == "12.3 %"
    assert traffic(29.28e6) == "29.28 MB"


def test_a_column_of_nothing_is_in_the_usual_unit() -> None:
    assert (seconds_unit([]).name, bytes_unit([]).name) == ("s", "GiB")

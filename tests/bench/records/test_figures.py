"""Figures of one column have the same decimals, and none of them reads as nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.records.figures import column

FIGURES = st.floats(min_value=1e-9, max_value=1e12, allow_subnormal=False)


@given(st.lists(FIGURES | st.none(), min_size=1, max_size=8))
def test_a_column_has_the_same_decimals_and_nothing_known_reads_as_zero(values: list[float | None]) -> None:
    shown = column(values)
    assert len({len(each.partition(".")[2]) for each in shown if each != "-"}) <= 1
    for value, text in zip(values, shown, strict=True):
        if value is None:
            assert text == "-"
            continue
        bound = float(text.lstrip("< ").replace(",", ""))
        places = len(text.partition(".")[2])
        assert value < bound if text.startswith("<") else abs(value - bound) <= 0.51 * 10**-places


def test_the_largest_figure_has_four_digits() -> None:
    assert column([35.6, 9.964, 0.0, None]) == ["35.60", "9.96", "0.00", "-"]
    assert column([1234567.0, 0.4]) == ["1,234,567", "< 1"]
    assert column([-0.0001, 2.5]) == ["> -0.001", "2.500"]
    assert column([0.05, 0.0123]) == ["0.05000", "0.01230"]
    assert column([]) == []

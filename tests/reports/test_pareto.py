"""Layouts by time and memory: which none beats, and that the picture is drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.pictures.pareto import front, pareto_figure

POINTS = st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=30)


@given(POINTS)
def test_none_of_the_front_is_beaten_and_all_others_are(points):
    found = front(*zip(*points, strict=True))

    def is_beaten(row: int) -> bool:
        seconds, gib = points[row]
        return any((s <= seconds and g <= gib) and (s, g) != (seconds, gib) for s, g in points)

    assert not any(is_beaten(row) for row in found)
    left_out = {*range(len(points))} - {*found}
    assert all(is_beaten(row) or points[row] in [points[each] for each in found] for row in left_out)
    assert [points[row][0] for row in found] == sorted(points[row][0] for row in found)


@pytest.mark.parametrize("limit", [None, 2.0, 0.1])
def test_a_picture_is_drawn_whatever_fits(limit):
    found = pareto_figure(["TP1 $x$", "TP2", "TP4"].__getitem__, [3.0, 2.0, 2.5], [1.0, 3.0, 4.0], limit)
    assert found.startswith(b"\x89PNG")


def test_no_layout_is_no_picture():
    with pytest.raises(ValueError, match="no layout to draw"):
        pareto_figure(str, [], [])

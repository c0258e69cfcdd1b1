"""The verdict rule: which metric makes the verdict, and what fails a pipeline."""

from __future__ import annotations

from typing import get_args

import pytest

from bench.judge.metrics import MEAN, RATE, STEP
from bench.judge.rule import WORST_FIRST, RowState, VerdictState, deciding, exit_code_of


@pytest.mark.parametrize(
    ("judged", "place", "state"),
    [
        ([(STEP, "pass"), ("peak_bytes", "inconclusive")], 0, "pass"),
        ([(STEP, "pass"), ("peak_bytes", "fail")], 1, "fail"),
        ([(STEP, "inconclusive"), ("peak_bytes", "improved")], 0, "inconclusive"),
        ([(STEP, "pass"), ("peak_bytes", "improved")], 1, "improved"),
        ([(STEP, "improved"), ("peak_bytes", "fail")], 1, "fail"),
        ([("peak_bytes", "fail"), (STEP, "fail")], 1, "fail"),
        ([("peak_bytes", "fail"), (RATE, "fail"), (STEP, "fail")], 2, "fail"),
        ([(STEP, "pass"), (MEAN, "fail"), ("peak_bytes", "fail")], 1, "fail"),
        ([(STEP, "pass"), (MEAN, "inconclusive")], 1, "inconclusive"),
        ([(RATE, "compared"), ("peak_bytes", "improved")], 1, "improved"),
    ],
)
def test_the_worst_state_decides_and_speed_comes_first(
    judged: list[tuple[str, RowState]], place: int, state: str
) -> None:
    assert deciding(judged) == (place, state)


def test_what_is_only_compared_decides_nothing() -> None:
    assert deciding([(RATE, "compared"), (STEP, "compared"), ("peak_bytes", "compared")]) is None
    assert deciding([("peak_bytes", "pass"), ("skew_seconds", "inconclusive")]) is None
    assert deciding([]) is None


def test_every_state_has_its_place_and_its_exit_code() -> None:
    states = [state for part in get_args(VerdictState) for state in get_args(part) or [part]]
    assert sorted(WORST_FIRST) == sorted(states)
    assert {state for state in WORST_FIRST if exit_code_of(state, require_answer=False)} == {"void", "fail", "missing"}
    answers = {state for state in WORST_FIRST if not exit_code_of(state, require_answer=True)}
    assert answers == {"pass", "improved"}

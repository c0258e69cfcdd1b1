"""Seconds of calls within a step: which calls are heard, and that they take the place of cold ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch

from bench.calibrate import in_step
from bench.calibrate.host import LoneStep, median_of
from bench.calibrate.in_step import CallsInSteps, as_run
from bench.calibrate.operators import OperatorTimes, Timed
from bench.plan.measured_device import StepCounts

MM = "mm(float32[3,4:4,1], float32[4,5:5,1])"


class Steps:
    """Multiplies so many rows in each step, forward and backward; `extra` steps call one operator more."""

    def __init__(self, *rows: int, extra: Sequence[int] = ()) -> None:
        self.rows, self.extra = rows, extra
        self.ran: list[int] = []

    def run(self, step: int) -> None:
        self.ran.append(step)
        weight = torch.ones(4, 5, requires_grad=True)
        (torch.ones(self.rows[step], 4) @ weight).sum().backward()
        if step in self.extra:
            torch.ones(1).neg()


def _heard(steps: Any) -> dict[str, float]:
    heard = CallsInSteps()
    for step in range(3):
        heard.run(steps, step)
    return heard.seconds()


def test_calls_of_forward_and_backward_are_heard_by_signature() -> None:
    steps = Steps(3, 3, 3)
    found = _heard(steps)
    assert steps.ran == [0, 1, 2]
    assert MM in found
    assert "mm(float32[4,3:1,4], float32[3,5:0,0])" in found  # the weight's gradient
    assert all(seconds >= 1e-9 for seconds in found.values())


def test_calls_with_other_rows_count_as_those_of_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, range(1000))
    assert _heard(Steps(3, 2, 7)) == _heard(Steps(3, 3, 3)) != {}


def test_a_step_that_calls_other_operators_is_dropped_and_the_first_stands_if_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def heard(*extra: int) -> float:
        _clock(monkeypatch, (each**2 for each in range(1000)))  # each call takes longer than the one before
        return _heard(Steps(3, 3, 3, extra=extra))[MM]

    assert heard(1) > heard() > heard(2) > heard(1, 2)


def _clock(monkeypatch: pytest.MonkeyPatch, moments: Iterable[float]) -> None:
    told = iter(moments)
    monkeypatch.setattr(in_step, "clock_seconds", lambda: 0.0)
    monkeypatch.setattr("bench.calibrate.in_step.time.thread_time", lambda: next(told))


def test_what_a_step_took_stands_before_what_was_timed_alone() -> None:
    timed = tuple(Timed(name, "mm", 1, 1, None, 2.0) for name in ("in the step", "alone"))
    times = OperatorTimes(StepCounts(0, 0, 1, (), ()), timed, (), 5, 0)
    found = as_run(times, {"in the step": 0.5, "a view": 9.0})
    assert [(each.signature, each.seconds) for each in found.timed] == [("in the step", 0.5), ("alone", 2.0)]


def test_a_calls_seconds_are_the_mean_of_a_step_and_the_median_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, [0, 9, 20, 29, 100, 101, 200, 203, 300, 305, 400, 405])

    class Adds:
        def __init__(self) -> None:
            self.one = torch.ones(1)

        def run(self, _step: int) -> None:
            for _ in range(2):
                self.one.neg()

    found = _heard(Adds())
    assert [seconds for name, seconds in found.items() if name.startswith("neg(")] == [3.5]  # of 2 and 5


def test_a_rank_that_was_launched_several_times_has_their_median() -> None:
    launches = LoneStep(2.0, {"mm": 1.0, "add": 5.0}), LoneStep(9.0, {"mm": 2.0}), LoneStep(3.0, {"mm": 7.0})
    assert median_of(launches) == LoneStep(3.0, {"mm": 2.0, "add": 5.0})

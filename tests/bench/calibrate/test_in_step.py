"""Seconds of calls within a step: which calls are heard, and that they take the place of cold ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.calibrate import in_step
from bench.calibrate.host import LoneStep, mean_of
from bench.calibrate.in_step import CallsInSteps, as_run
from bench.calibrate.operators import OperatorTimes, Timed
from bench.plan.measured_device import StepCounts

MM = "mm(float32[3,4:4,1], float32[4,5:5,1])"


class Steps:
    """Multiplies once in its first step and twice in others, forward and backward."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def run(self, step: int) -> None:
        self.ran.append(step)
        weight = torch.ones(4, 5, requires_grad=True)
        for _ in range(1 + (step > 0)):
            (torch.ones(3, 4) @ weight).sum().backward()


def _heard(steps: Any) -> dict[str, float]:
    heard = CallsInSteps()
    for step in range(3):
        heard.run(steps, step)
    return heard.seconds()


def test_calls_of_forward_and_backward_are_heard_by_signature() -> None:
    steps = Steps()
    found = _heard(steps)
    assert steps.ran == [0, 1, 2]
    assert MM in found
    assert "mm(float32[4,3:1,4], float32[3,5:0,0])" in found  # the weight's gradient
    assert all(seconds >= 1e-9 for seconds in found.values())


def test_what_a_step_took_stands_before_what_was_timed_alone() -> None:
    timed = tuple(Timed(name, "mm", 1, 1, None, 2.0) for name in ("in the step", "alone"))
    times = OperatorTimes(StepCounts(0, 0, 1, (), ()), timed, (), 5, 0)
    found = as_run(times, {"in the step": 0.5, "a view": 9.0})
    assert [(each.signature, each.seconds) for each in found.timed] == [("in the step", 0.5), ("alone", 2.0)]


def test_a_calls_seconds_are_the_mean_of_a_step_and_the_median_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 10.0, 13.0, 20.0, 99.0, 200.0, 201.0, 300.0, 303.0])
    monkeypatch.setattr(in_step, "clock_seconds", lambda: 0.0)
    monkeypatch.setattr("bench.calibrate.in_step.time.thread_time", lambda: next(moments))

    class Adds:
        calls = iter([2, 1, 2])

        def __init__(self) -> None:
            self.one = torch.ones(1)

        def run(self, _step: int) -> None:
            for _ in range(next(self.calls)):
                self.one.neg()

    found = _heard(Adds())
    assert [seconds for name, seconds in found.items() if name.startswith("neg(")] == [2.0]


def test_a_rank_that_was_launched_twice_has_the_mean_of_both() -> None:
    found = mean_of([LoneStep(2.0, {"mm": 1.0, "add": 5.0}), LoneStep(4.0, {"mm": 2.0})])
    assert found == LoneStep(3.0, {"mm": 1.5, "add": 5.0})

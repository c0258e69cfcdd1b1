"""Predictions of this CPU beside runs: calibrated here, now, on other jobs. Figures to read, not a gate.

pytest bench/test_plan.py --benchmark --plan -s
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.calibrate.calibration import calibrate, default_samples
from bench.calibrate.validation import (
    FEW_CONTROLS,
    FEW_RANKS,
    MANY_CONTROLS,
    MANY_RANKS,
    Trial,
    accuracy,
    plan_accuracy,
    run,
    slowdown,
    table,
    trials,
)
from bench.host import others_clock, others_cores
from bench.plan.device import write_device
from bench.session import BenchSession, show_in_benchmark_table

_CALIBRATION_MINUTES = 2.0
_BUDGET_SECONDS = 1200.0  # of all; jobs are repeated as long as there is time
_LAUNCHES, _STEPS = 7, 6  # of each job at most; steps of a launch, after a warm-up
_FEW_SHARE = 0.4  # of what is left after the calibration


@pytest.fixture(autouse=True)
def _on_a_cpu(session: BenchSession) -> None:
    if session.device != "cpu":
        pytest.skip("holds predictions of a CPU against its runs")


@pytest.mark.timeout(2100)
def test_predictions_of_this_cpu(session: BenchSession, benchmark: Any) -> None:
    """Calibrate, predict, run, compare; the table goes to plan.md in the results folder too."""
    begun, others = time.monotonic(), others_clock()
    device = calibrate("cpu", default_samples("cpu"), _CALIBRATION_MINUTES, lambda what: print(what, file=sys.stderr))
    session.results.mkdir(parents=True, exist_ok=True)
    write_device(session.results / "calibrated-cpu.json", device)
    few_controls, few, many_controls, many = (
        trials(jobs, device) for jobs in (FEW_CONTROLS, FEW_RANKS, MANY_CONTROLS, MANY_RANKS)
    )
    print(f"calibrated and counted after {time.monotonic() - begun:.0f} s", file=sys.stderr)
    until = begun + _BUDGET_SECONDS
    middle = time.monotonic() + _FEW_SHARE * (until - time.monotonic())
    run([*few_controls, *few], _LAUNCHES, _STEPS, lambda: time.monotonic() < middle)
    run([*many_controls, *many], _LAUNCHES, _STEPS, lambda: time.monotonic() < until)
    load = others_cores(others, others_clock())
    a_call, a_step = device.host.seconds_a_call, device.host.seconds_a_step
    text = "\n\n".join(
        (
            f"device: {device.description}",
            f"host: {a_call.value * 1e6:.2f} us a call, {a_step.value * 1e3:.2f} ms a step ({a_call.source})",
            "Controls are jobs that were calibrated, run again beside the others: what the machine changed meanwhile.",
            *_part("1 and 2 ranks", few, few_controls),
            *_part("4, 8 and 16 ranks", many, many_controls),
            f"cores that other programs used meanwhile: {load}; {time.monotonic() - begun:.0f} s in all\n",
        )
    )
    print("\n" + text)
    Path(session.results / "plan.md").write_text(text, encoding="utf-8")
    show_in_benchmark_table(benchmark, [seconds for each in few for seconds in each.seconds])


def _part(name: str, some: list[Trial], controls: list[Trial]) -> list[str]:
    times = slowdown(controls)
    return [
        f"{name}: {accuracy(some).line()}",
        f"python -m bench plan, by this profile: {plan_accuracy(some).line()}.",
        f"Each prediction times {times:.2f}, which is how the controls ran: {accuracy(some, times).errors}.",
        table(some),
        "controls:",
        table(controls),
    ]

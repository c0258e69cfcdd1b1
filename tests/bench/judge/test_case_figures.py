"""A case's figures: of which runs they are medians, in words."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judge.case_figures import told_runs
from bench.synthetic import build_synthetic_record


def test_runs_of_one_program_on_one_machine_are_counted() -> None:
    assert told_runs([build_synthetic_record(seed=number) for number in range(3)]) == "3 runs"


@pytest.mark.parametrize(
    "changes",
    [
        {"commit": {"sha": "1" * 40}},
        {"commit": {"dirty": True}},
        {"software": {"torch": "2.8.0"}},
        {"session": {"machine": "b" * 16, "boot": None, "day": "2025-01-31", "job": None}},
    ],
)
def test_runs_of_several_programs_or_machines_say_so(changes: dict[str, Any]) -> None:
    runs = [build_synthetic_record(seed=0), build_synthetic_record(seed=1), build_synthetic_record(seed=2, **changes)]
    assert told_runs(runs) == "3 runs of 2 programs or machines"

"""The phases that records, pictures and ledgers name are those that training times."""

from __future__ import annotations

from bench.records.phases import LEDGER_PHASES, PHASES
from grok1.training import timers


def test_the_phases_are_those_that_training_times() -> None:
    assert PHASES == timers.PHASES


def test_a_ledger_tells_the_same_phases_in_the_same_order_and_two_more() -> None:
    assert tuple(name for name in LEDGER_PHASES if name not in ("recompute", "between")) == PHASES
    assert LEDGER_PHASES.index("recompute") == LEDGER_PHASES.index("backward") - 1

"""The exact cost of the shipped recipes against what is stored, with zero tolerance; needs no hardware of theirs."""

from __future__ import annotations

from typing import Any

import pytest

from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.schema import read_ledger
from bench.session import BenchSession
from grok1.config.load import load_recipe

_COUNT_SECONDS = 600
# what a newcomer waits for; --recipe names another one, of which the 314B takes a minute on two cores
_QUICK = ("grok1-nano", "grok1-tiny", "grok1-40b-2layer", "grok1-40b")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The quick ones, or the one that --recipe names, if its ledger is stored."""
    named = metafunc.config.getoption("--recipe")
    names = [name for name in ledger_store.SHIPPED if name == named] if named else _QUICK
    metafunc.parametrize("name", names)


def _asked_for(config: pytest.Config) -> list[str]:
    """What was named is reported too; the tables of the others would bury the report."""
    return [config.getoption("--recipe"), *(config.getoption("--case") or ())]


@pytest.mark.timeout(_COUNT_SECONDS)
def test_a_step_costs_what_is_stored(name: str, session: BenchSession, benchmark: Any) -> None:
    """FLOPs, bytes, collectives, operators and memory of one step; the time shown is the counting's own."""
    stored = read_ledger(ledger_store.path_of(None, name))
    counted = benchmark.pedantic(ledger_store.counted, args=(load_recipe(name),), rounds=1)
    benchmark.extra_info.update(
        recipe=name,
        recipe_hash=counted.recipe_hash,
        matrix_flops_per_step=counted.total("matrix_flops"),
        peak_bytes=max(rank.memory.peak_bytes for rank in counted.ranks),
    )
    if name in _asked_for(session.config):
        session.ledgers.append(counted)
    if counted.engine_line != stored.engine_line:
        pytest.skip(
            f"the stored ledger is megatron-core {stored.engine_line}'s, and {counted.engine_line} is installed; "
            "docs/ledger.md has the difference"
        )
    complaint = ledger_text.complaint(stored, counted)
    if complaint:
        pytest.fail(complaint, pytrace=False)

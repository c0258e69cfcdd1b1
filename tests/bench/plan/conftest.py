"""The planner's sample, counted once for all the tests that share it."""

from __future__ import annotations

import pytest

from tests.bench.plan.sample import Counted, counted_sample


@pytest.fixture(scope="session")
def counted() -> list[Counted]:
    """Legal layouts of several recipes with what the ledger counts of them."""
    return counted_sample()

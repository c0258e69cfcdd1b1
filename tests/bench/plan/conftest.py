"""The planner's sample, a part and all of it, each place counted once for all the tests that share it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.plan.sample import RECIPES, SAMPLE_SIZE, Counted, counted_sample

_COUNTING_SECONDS = 5400  # minutes on two idle cores; whichever test asks first waits for it


@pytest.fixture(
    scope="session",
    params=[len(RECIPES), pytest.param(SAMPLE_SIZE, marks=pytest.mark.slow)],
    ids=["a layout of each recipe", "all layouts"],
)
def counted(request: pytest.FixtureRequest) -> list[Counted]:
    """Legal layouts of several recipes with what the ledger counts of them."""
    return counted_sample(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of the sample take as long as its counting."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "counted" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(_COUNTING_SECONDS))

"""Fixtures that the tests of reports share."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a report."""
    monkeypatch.setattr("reports.document._pictures", lambda case, width: {})

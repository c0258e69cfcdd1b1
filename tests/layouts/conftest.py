"""Every accepted layout against one rank: a sample by default, all with `--all-layouts` (`make layouts`)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("layouts", "layouts against one rank").addoption(
        "--all-layouts", action="store_true", help="every layout of 1 to 16 ranks, not a sample (takes an hour)"
    )

"""Memory in use is what a leak adds to: on a CPU the resident bytes of the process."""

from __future__ import annotations

import pytest

from tests.grok1.conftest import run_python

SCRIPT = """
import torch
from grok1.device import measuring
before = measuring.bytes_in_use()
kept = torch.ones(2**25)
with_it = measuring.bytes_in_use()
del kept
print(with_it - before, measuring.bytes_in_use() - before)
"""


@pytest.mark.slow
def test_it_follows_what_is_allocated_and_freed() -> None:
    grown, left = map(int, run_python(SCRIPT, "cpu").stdout.split())
    assert 2**27 <= grown < 2**28
    assert left < 2**26

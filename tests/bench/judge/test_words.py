"""A judgement in words: what is no number that says anything is not told as one."""

from __future__ import annotations

import pytest

from bench.judge.metrics import STEP
from bench.judge.words import slowdown, smallest, visible


@pytest.mark.parametrize("say", [slowdown, smallest, lambda percent: visible(STEP, percent)])
def test_beyond_tenfold_there_is_no_figure(say) -> None:
    assert "12.3" in say(12.34)
    assert "tenfold" not in say(900.0)
    assert "tenfold" in say(30_867.67)
    assert not [letter for letter in say(30_867.67) if letter.isdigit()]

"""Errors of one printable line, whatever a file made a library say."""

from __future__ import annotations

import pytest

from grok1.config.refusals import listed, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\nlines  and\ttabs"), "two lines and tabs"),
        (ValueError("\x1b[2Jgone"), "?[2Jgone"),
        (EOFError(), "EOFError"),
        (ValueError("x" * 300), "x" * 200),
    ],
    ids=["white space", "a terminal's code", "nothing", "much"],
)
def test_a_foreign_error_becomes_one_short_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_only_the_first_problems_are_listed() -> None:
    assert listed(["a", "b\n", "c"], 2) == "a; b?; and 1 more"
    assert listed(["a", "b"], 2) == "a; b"

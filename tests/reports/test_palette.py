"""Colours of pages can be read: letters by the contrast that the rules for the web ask of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.palette import (
    COMMUNICATION,
    COMPONENT,
    DARK,
    INK,
    LETTERS,
    MUTED,
    ON_DARK,
    ON_PALE,
    OTHER,
    PAPER,
    PHASE_COLOURS,
    SHADE,
    STRANGERS,
    letters_on,
    shades,
)
from tests.reports.contrast import LEAST_CONTRAST, contrast

LIGHT_LETTERS = [INK, MUTED, *(light for light, _ in LETTERS.values())]
DARK_LETTERS = [DARK[INK], DARK[MUTED], *(dark for _, dark in LETTERS.values())]


@pytest.mark.parametrize("letters", LIGHT_LETTERS)
@pytest.mark.parametrize("paper", [PAPER, SHADE])
def test_letters_on_a_light_page(letters: str, paper: str) -> None:
    assert contrast(letters, paper) >= LEAST_CONTRAST


@pytest.mark.parametrize("letters", DARK_LETTERS)
@pytest.mark.parametrize("paper", [DARK[PAPER], DARK[SHADE]])
def test_letters_on_a_dark_page(letters: str, paper: str) -> None:
    assert contrast(letters, paper) >= LEAST_CONTRAST


@pytest.mark.parametrize(
    "colour",
    [
        *PHASE_COLOURS.values(),
        OTHER,
        *STRANGERS,
        *shades(COMPONENT, 8),
        *shades(COMMUNICATION, 8),
    ],
)
def test_letters_within_a_piece_can_be_read_in_both_schemes(colour: str) -> None:
    letters = letters_on(colour)
    assert contrast(letters, colour) >= LEAST_CONTRAST
    assert letters not in DARK  # or a dark page would turn it into another


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_of_black_and_white_the_clearer_is_taken(red: int, green: int, blue: int) -> None:
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    best = max(contrast(each, colour) for each in (ON_PALE, ON_DARK))
    assert contrast(letters_on(colour), colour) == pytest.approx(best, rel=1e-3)


def test_contrast_is_that_of_the_rules() -> None:
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)")
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)

"""Colours of pages can be read: letters by the contrast that the rules for the web ask of them."""

from __future__ import annotations

import pytest

from reports.palette import DARK, INK, LETTERS, MUTED, PAPER, SHADE
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


def test_contrast_is_that_of_the_rules() -> None:
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)")
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)

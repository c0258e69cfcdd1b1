"""How well letters stand out from their paper, as the Web Content Accessibility Guidelines count it."""

from __future__ import annotations

import re

LEAST_CONTRAST = 4.5  # their level AA, for text of usual size


def luminance(colour: str) -> float:
    """Of a colour as a stylesheet or a browser tells it: #1d2329, or rgb(29, 35, 41)."""
    if colour.startswith("#"):
        parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    else:
        parts = [int(part) for part in re.findall(r"\d+", colour)[:3]]
    shares = [part / 255 for part in parts]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """1 of one colour with itself, 21 of black on white."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)

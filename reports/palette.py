"""Every colour of a report, by what it means: the same in all pictures and pages.

Colours are middle tones that can be read on white and on black. Only paper and ink change with the reader's scheme.
No colour stands alone: what it says, a word, a mark or a line's form says too.
"""

from __future__ import annotations

from bench.judge.rule import RowState, VerdictState
from bench.records.phases import PHASES

PAPER, SHADE, LINE, MUTED, INK = "#ffffff", "#f4f6f8", "#d5dade", "#66707a", "#1d2329"
# What these are where the reader's scheme is dark
DARK = {PAPER: "#16191d", SHADE: "#1f242a", LINE: "#373e46", MUTED: "#9aa4ae", INK: "#dfe4e8"}

# Letters on a colour, which is the same in both schemes: so are these, and this white is not paper's
ON_PALE, ON_DARK = "#000000", "#fffffe"

MEASURED, BASELINE = "#3579cf", "#848d96"  # the runs of this report; what they are held against
COMMUNICATION = "#d0671f"  # exchanges, and waiting for others
COMPONENT = "#4a5ba8"  # parts of the model, in tones of this
OTHER = "#a9b1b9"  # what has no name of its own
GOOD, BAD, UNSURE = "#23934f", "#d9413a", "#bd7d10"
# Letters want more contrast than marks do: tones of these on a light page, and on a dark one
LETTERS = {GOOD: ("#1a7a3c", "#3fb870"), BAD: ("#c8352d", "#f0766f"), UNSURE: ("#8f5e08", "#d99a2b")}

PHASE_COLOURS = dict(
    zip(PHASES, ("#96713a", "#2a9d8f", "#8661b8", COMMUNICATION, "#c2568c", "#b89a1e", "#6b7f3a"), strict=True)
)
# For names that are not ours: the ten of matplotlib without its grey
STRANGERS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")

# Of each state: its mark, which tells it without colour, and its colour
STATES: dict[VerdictState | RowState, tuple[str, str]] = {
    "fail": ("✗", BAD),
    "void": ("✗", BAD),
    "missing": ("✗", BAD),
    "inconclusive": ("?", UNSURE),
    "no_baseline": ("○", UNSURE),
    "improved": ("▲", GOOD),
    "pass": ("✓", GOOD),
    "compared": ("·", MUTED),
}


def letters_on(colour: str) -> str:
    """Black or white, whichever stands out more from `colour`, such as #2a9d8f.

    (Web Content Accessibility Guidelines 2.1, relative luminance.)
    """
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return ON_PALE if (luminance + 0.05) ** 2 > 0.05 * 1.05 else ON_DARK


def shades(colour: str, count: int) -> list[str]:
    """So many tones of one colour, dark and pale in turns, so that neighbours differ."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    shares = [0.7 * rank / max(1, count - 1) for rank in range(count)]  # of the way to white
    half = -(-count // 2)
    turns = [shares[rank // 2 + (rank % 2) * half] for rank in range(count)]
    return ["#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts) for share in turns]

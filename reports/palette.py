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


def shades(colour: str, count: int) -> list[str]:
    """So many tones of one colour, dark and pale in turns, so that neighbours differ."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    shares = [0.7 * rank / max(1, count - 1) for rank in range(count)]  # of the way to white
    half = -(-count // 2)
    turns = [shares[rank // 2 + (rank % 2) * half] for rank in range(count)]
    return ["#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts) for share in turns]

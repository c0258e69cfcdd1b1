"""The phases of a training step, in the order in which people read them. grok1.training.timers times the same ones."""

from __future__ import annotations

PHASES = ("data", "forward", "backward", "pipeline", "gradients", "optimizer", "report")
# A ledger also tells forward computation that runs again inside the backward, and what lies between phases.
LEDGER_PHASES = ("data", "forward", "recompute", *PHASES[2:], "between")

"""Mutants that change nothing that a test could or should see, each with the reason."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

# (file, the line, the changed line, both without indentation): the reason
KNOWN: dict[tuple[str, str, str], str] = {}


def why_known(mutant: Mutant) -> str | None:
    """The reason; None for a mutant that must be caught."""
    return KNOWN.get((mutant.path, *mutant.change))

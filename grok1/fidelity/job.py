"""The verification job: a reference dump and a recipe, as plain data. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grok1.config.recipe import Recipe


@dataclass(frozen=True)
class VerifyJob:
    """A reference dump that `grok1.fidelity.dump.check_dump` found whole, and `oracle_recipe`'s layout for it."""

    recipe: Recipe
    path: Path

"""Finalists counted by the real ledger, beside what the closed forms say. Torch only in the processes that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.plan.fits import Fits, fits
from bench.plan.layout_text import layout_text
from bench.plan.legal import recipe_of
from grok1.config.stages import first_rank_of_stage


@dataclass(frozen=True)
class Recounted:
    """A layout's fullest rank by both ways. Bytes, both without the memory that reused parameters save."""

    row: int
    name: str
    planned: int
    counted: int

    @property
    def above(self) -> float:
        """How far the plan is above the ledger, as a share."""
        return self.planned / self.counted - 1.0


def recounted(found: Fits, rows: Sequence[int], tell: Callable[[str], None]) -> list[Recounted]:
    """The ledger's count of these rows; `tell` gets a line before each.

    Raises:
        ValueError: the ledger cannot count the recipe, or no routing has that skew.
    """
    shares = _shares(found, rows) if found.skew != 1.0 else {}
    alone = fits(found.layouts.take(list(rows)), found.available, found.skew, reuses=False)
    counts = []
    for number, row in enumerate(rows):
        name = layout_text(found.layouts, row)
        tell(f"counting {number + 1} of {len(rows)}: {name}")
        counts.append(Recounted(row, name, int(alone.tensors[number]), _counted(alone, number, shares.get(row))))
    return counts


def _counted(found: Fits, row: int, shares: list[float] | None) -> int:
    """The ledger's peak of the layout's fullest stage."""
    from bench.ledger.store import counted  # starts processes that import torch

    recipe = recipe_of(found.layouts, row)
    rank = first_rank_of_stage(recipe.parallel, int(found.stage[row]))
    return max(each.memory.peak_bytes for each in counted(recipe, [rank], shares).ranks)


def _shares(found: Fits, rows: Sequence[int]) -> dict[int, list[float]]:
    """By row, a share of each expert in which the first rank's get `skew` times the even one."""
    model, shares = found.layouts.recipe.model, {}
    for row in rows:
        local = model.num_experts // int(found.layouts.expert[row])
        most = found.skew / model.num_experts
        others = model.num_experts - local
        if others and most * local <= 1.0 and most <= 1.0 / model.experts_per_token:
            shares[row] = [most] * local + [(1.0 - most * local) / others] * others
        elif others:
            raise ValueError(
                f"--skew {found.skew:g} with {local} of {model.num_experts} experts on a rank: an expert gets at most "
                f"{model.num_experts / model.experts_per_token:g} times its share; choose less"
            )
    return shares

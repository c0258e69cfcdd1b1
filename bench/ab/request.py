"""What an A/B comparison was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.cases import select
from bench.judge.difference import MIN_PAIRS
from bench.places import ROOT

FOLDER = Path("results") / "ab"


@dataclass(frozen=True)
class Request:
    """What to compare and how; `head` None is the working tree as it is."""

    base: str
    head: str | None
    case: str
    pairs: int = 5
    confirm: int = 0
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    device: str | None = None
    results: Path = FOLDER
    root: Path = ROOT
    more_words: tuple[str, ...] = ()  # of a run's command line; paths in it are absolute

    def __post_init__(self) -> None:
        select([self.case], "cpu")  # refuses a case that is none
        if self.pairs < MIN_PAIRS or self.confirm < 0:
            raise ValueError(
                f"--pairs {self.pairs} --confirm {self.confirm}: at least {MIN_PAIRS} pairs, and at least 0 more"
            )

    @property
    def own_recipe(self) -> str | None:
        """In place of the case's; a file is the same one for both revisions, which run in other folders."""
        is_file = self.recipe is not None and self.recipe.endswith(".toml")
        return str(Path(self.recipe).resolve()) if self.recipe is not None and is_file else self.recipe

    @property
    def words(self) -> list[str]:
        """Of a run's command line, the same for both revisions."""
        options = [("case", self.case), ("recipe", self.own_recipe), ("steps", self.steps), ("device", self.device)]
        options += [("set", each) for each in self.overrides]
        # joined: pytest takes a path that stands alone for one of tests, and looks for its settings above it
        return [*(f"--{name}={value}" for name, value in options if value is not None), *self.more_words]

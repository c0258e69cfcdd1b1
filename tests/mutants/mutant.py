"""A mutant: one file of the tree with one fault in it, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest


@dataclass(frozen=True)
class Mutant:
    """`path` is from the root of the tree; `tests` are files or nodes that pytest is given."""

    path: str
    original: str
    mutated: str
    tests: tuple[str, ...]

    @property
    def change(self) -> tuple[str, str]:
        """The first line that differs, before and after, without indentation."""
        sides = zip_longest(self.original.splitlines(), self.mutated.splitlines(), fillvalue="")
        return next(((old.strip(), new.strip()) for old, new in sides if old != new), ("", ""))

    @property
    def line(self) -> int:
        """Its number, from 1."""
        sides = zip_longest(self.original.splitlines(), self.mutated.splitlines(), fillvalue="")
        return next((number for number, (old, new) in enumerate(sides, start=1) if old != new), 0)

    def __str__(self) -> str:
        old, new = self.change
        return f"{self.path}:{self.line}\n    - {old}\n    + {new}"

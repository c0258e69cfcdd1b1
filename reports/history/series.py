"""A series of a history with all that its page shows of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.history.change_points import ChangePoint, change_points
from bench.history.points import Point, points_of
from bench.history.store import Entry
from bench.history.words import warnings
from reports.history.software import Versions, names_of

SHOWN_POINTS = 60  # on a case's own page, the newest; the others have a page of their own


@dataclass(frozen=True)
class Series:
    """Runs that may be compared over time; `name` tells it from the others in the page of its case."""

    name: str
    runs: tuple[Entry, ...]

    @property
    def case(self) -> str:
        return self.runs[0].case

    @cached_property
    def changes(self) -> list[ChangePoint]:
        return change_points(self.runs)

    @cached_property
    def points(self) -> list[Point]:
        return points_of(self.runs, self.changes)

    @cached_property
    def versions(self) -> dict[Versions, str]:
        return names_of(self.runs)

    @cached_property
    def warnings(self) -> list[str]:
        return [each.removeprefix("warning: ") for each in warnings(self.runs, self.changes)]

    def address(self, number: int) -> str:
        """Where a point is told in figures, from the case's page."""
        page = "" if number >= len(self.points) - SHOWN_POINTS else points_page(self.case)
        return f"{page}#{self.point_id(number)}"

    def point_id(self, number: int) -> str:
        return f"{self.name}-p{number + 1}"

    def change_id(self, change: ChangePoint) -> str:
        return f"{self.name}-r{change.at + 1}"


def by_case(found: Sequence[Sequence[Entry]]) -> dict[str, list[Series]]:
    """The series of each case, both in the order in which they began; cases by name."""
    cases: dict[str, list[Series]] = {}
    for runs in found:
        series = cases.setdefault(runs[0].case, [])
        series.append(Series(f"s{len(series) + 1}", tuple(runs)))
    return dict(sorted(cases.items()))


def case_page(case: str) -> str:
    """The name of a case's page, which no case can turn into a path, and which it shares with no other."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", case).strip("-")[:60]
    return f"{readable or 'case'}-{hashlib.sha256(case.encode()).hexdigest()[:8]}.html"


def points_page(case: str) -> str:
    """The name of the page of all points of a case."""
    return case_page(case).removesuffix(".html") + "-points.html"

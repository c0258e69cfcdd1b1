"""When a log's training lines were printed: the dates before their first field, held against the lines' own times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

# As in [2024-03-18 12:23:25], [titan] 2025-01-01 12:00:00,123 and, of Primus, [20251202 06:56:28]; with a time zone
# as in 2024-03-18T04:23:07.123456789Z, which container runtimes write. What is a part of a name or of a path, as in
# runs/2024-03-18T12:23:25/rank0.log, is no line's date.
_DATE = re.compile(
    r"(?<![\d/\\._-])(\d{4})[-/]?(\d\d)[-/]?(\d\d)[ T](\d\d:\d\d:\d\d)(?!\d)"
    r"(?:[.,]\d{1,9})?(Z|[+-]\d\d(?::?\d\d)?(?!:?\d))?(?![\d/\\_Z+]|[.-]\w)"
)
_EARLIEST = datetime(2015, 1, 1, tzinfo=timezone.utc)  # no log that is understood here is older
_LATEST = timedelta(days=1)  # beyond now: of a clock that runs in another time zone
# Dates are read to the second: of lines that are so far apart, one date cannot be of each.
_STANDS_SECONDS = 2.0


@dataclass(frozen=True)
class _Clock:
    """The dates that stand at one place of a file's training lines."""

    first: datetime
    last: datetime
    has_zone: bool
    line: int  # the last that has one
    moves: bool


@dataclass
class Dates:
    """The dates of one file's training lines, by their place: 0 is the last before a line's first field."""

    lines: int = 0
    steps: tuple[int, int] = (0, 0)  # the lowest and the highest with a date
    clocks: dict[int, _Clock] = field(default_factory=dict)

    def note(self, prefix: str, step: int) -> None:
        """What stands before a training line of this step; what is no date of such a job says nothing."""
        dates = [(_moment(*date), bool(date[-1])) for date in reversed(_DATE.findall(prefix))]
        if not any(moment for moment, _ in dates):
            return
        self.lines += 1
        self.steps = (min(self.steps[0], step), max(self.steps[1], step)) if self.clocks else (step, step)
        for place, (moment, has_zone) in enumerate(dates):
            if moment is not None:
                before = self.clocks.get(place)
                first = moment if before is None else before.first
                moves = moment != first or (before is not None and before.moves)
                self.clocks[place] = _Clock(first, moment, has_zone, self.lines, moves)

    def last(self, elapsed: float) -> tuple[datetime | None, bool]:
        """When the last line with a date was printed, and whether that says its time zone.

        One that says it comes before one that does not, and then the last in the line. `elapsed` is how many seconds
        lie between the first and the last of the lines, by their own times: a date that stands still meanwhile is of
        none of them.
        """
        told = [
            (clock.has_zone, -place, clock)
            for place, clock in self.clocks.items()
            if clock.line == self.lines and (clock.moves or elapsed < _STANDS_SECONDS)
        ]
        if not told:
            return None, False
        clock = max(told, key=lambda each: each[:2])[2]
        return clock.last, clock.has_zone


def dated(files: Sequence[Dates], seconds: Sequence[tuple[int, float]]) -> tuple[datetime | None, bool, bool]:
    """When the last training line was printed, whether that says its time zone, and whether dates stood still.

    `seconds` are the steps that were logged, in their order, each with the time of a step; a line is of all steps since
    the one before it.
    """
    last = next((each for each in reversed(files) if each.clocks), None)
    if last is None:
        return None, False, False
    first, end = last.steps
    pairs = zip(seconds, seconds[1:], strict=False)
    elapsed = sum((step - before) * time for (before, _), (step, time) in pairs if first < step <= end)
    moment, has_zone = last.last(elapsed)
    return moment, has_zone, moment is None


def _moment(year: str, month: str, day: str, time: str, zone: str) -> datetime | None:
    offset = zone.replace("Z", "+00:00").replace(":", "")
    offset = f"{offset[:3]}:{offset[3:] or '00'}" * bool(offset)
    try:
        moment = datetime.fromisoformat(f"{year}-{month}-{day}T{time}{offset}")
        utc = moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None
    return utc if _EARLIEST <= utc <= datetime.now(timezone.utc) + _LATEST else None

"""Whether the machine kept its speed while it was measured. A profile of a machine that did not is of no machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.calibrate.crowding import Miss

_MOST_BETWEEN_LAUNCHES = 1.3  # of the same step, median over ranks; of one rank a launch may be 1.4 of another
_MOST_OVER_RUN = 1.3  # of a step without its exchanges to the same step as it ran, with them


def changes_of_speed(launches_seconds: Sequence[Sequence[float]], misses: Sequence[Miss]) -> list[str]:
    """What says that the machine was faster at one time than at another, each in a clause; none where nothing does.

    `launches_seconds`: of each rank, its step in each launch. `misses`: runs of several ranks. Medians are compared, as
    one launch may always have been disturbed.
    """
    said = []
    between = _median([max(each) / min(each) for each in launches_seconds if len(each) > 1])
    if between > _MOST_BETWEEN_LAUNCHES:
        said.append(f"the same steps took {between:.1f} times as long in one launch as in another")
    over = _median([each.alone_seconds / each.step_seconds for each in misses if each.has_cores])
    if over > _MOST_OVER_RUN:
        said.append(
            f"by what was timed of ranks alone, steps on a core a rank take {over:.1f} times as long as they ran, "
            "before any exchange"
        )
    return said


def _median(ratios: Sequence[float]) -> float:
    return statistics.median(ratios) if ratios else 1.0

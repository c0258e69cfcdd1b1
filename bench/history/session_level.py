"""The level between sessions that is assumed of a baseline which cannot say: given, or from the history.

The history spans real changes of the program. The level is therefore that of one session against the next, which one
change touches once, with far differences cut off. It is raised for few sessions: Student's t in place of the normal
distribution, so that an error of 1 % stays one (simulated: 5 sessions 1.0 %, 20 sessions 1.1 %). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import scipy

from bench.history.store import Entry, key_of, read
from bench.judge.difference import MIN_SESSIONS
from bench.judge.sessions import ASSUMED, FROM_HISTORY, Level
from bench.records.record import Record

MIN_PERCENT, MAX_PERCENT = 0.01, 50.0
HISTORY = "history"  # the word for the history beside the results
_FILE_SUFFIX = ".jsonl"
_NORMAL = 0.6745  # of a normal variable's size, the median in standard deviations
_FAR = 3.0  # in standard deviations: a difference counts as no more than this
_FREEDOM = 0.7  # degrees of freedom of this mean of differences, per session after the first
_ERROR = 0.01


@dataclass(frozen=True)
class SessionLevel:
    """The level of a case between sessions, one standard deviation in percent; None: that of the kind of device."""

    percent: float | None = None
    history: Path | None = None
    entries: tuple[Entry, ...] = ()

    def of(self, record: Record) -> float | None:
        """What is assumed of this record's case."""
        if self.history is None:
            return self.percent
        found = level_percent(self._sessions(record))
        return None if found is None else min(max(found, MIN_PERCENT), MAX_PERCENT)

    def level(self, record: Record) -> Level | None:
        """The same, and who says so."""
        percent = self.of(record)
        return None if percent is None else Level(percent, ASSUMED if self.history is None else FROM_HISTORY)

    def told(self, record: Record) -> str | None:
        """A line on where the level comes from; None where it was given."""
        if self.history is None:
            return None
        number, level = len(self._sessions(record)), self.of(record)
        if level is None:
            return (
                f"{record.case}: {self.history} holds {number} session{'s' * (number != 1)} of it, and a level takes "
                f"{MIN_SESSIONS}: that of the device's kind is assumed"
            )
        return f"{record.case}: {level:.2g} % between sessions, by {number} sessions in {self.history}"

    def _sessions(self, record: Record) -> list[float]:
        key = key_of(record)
        return session_medians([each for each in self.entries if (each.case, each.key) == (record.case, key)])


def session_level(given: str | None, beside: Path, judged: Sequence[str] = ()) -> SessionLevel:
    """The meaning of --session-spread: a percentage, `history` (the file `beside` the results), or such a file.

    `judged` are the records to be judged: what the history holds of them says nothing of other sessions.

    Raises:
        ValueError: neither, out of bounds, or a history that cannot be read.
    """
    if given is None:
        return SessionLevel()
    if given == HISTORY or given.endswith(_FILE_SUFFIX):
        path = beside if given == HISTORY else Path(given)
        if not path.is_file():
            raise ValueError(
                f"--session-spread {given}: there is no history at {path}; name a file, or give a percentage"
            )
        known = set(judged)
        return SessionLevel(history=path, entries=tuple(each for each in read(path) if each.record_id not in known))
    try:
        percent = float(given)
    except ValueError:
        percent = math.nan
    if not MIN_PERCENT <= percent <= MAX_PERCENT:
        raise ValueError(
            f"--session-spread {given!r}: give a percentage from {MIN_PERCENT:g} to {MAX_PERCENT:g}, "
            f"`{HISTORY}`, or a history's file ({_FILE_SUFFIX})"
        )
    return SessionLevel(percent)


def session_medians(entries: Sequence[Entry]) -> list[float]:
    """The median step of each session, in the order of time, of entries of one case and key in that order.

    A line does not say how long its run took, so pauses tell no sessions apart. One without a session is of its day.
    """
    found: dict[str, list[float]] = {}
    for entry in entries:
        name = entry.created_at[:10] if entry.session is None else entry.session.model_dump_json()
        found.setdefault(name, []).append(entry.step_seconds)
    return [median(each) for each in found.values()]


def level_percent(medians: Sequence[float]) -> float | None:
    """One standard deviation between sessions, in percent, raised for their number; None of fewer than five."""
    if len(medians) < MIN_SESSIONS:
        return None
    differences = np.abs(np.diff(np.log(medians)))
    far = _FAR * float(np.median(differences)) / _NORMAL
    spread = float(np.minimum(differences, far).mean()) * math.sqrt(math.pi) / 2
    freedom = _FREEDOM * (len(medians) - 1)
    raised = scipy.special.stdtrit(freedom, 1 - _ERROR) / scipy.special.ndtri(1 - _ERROR)
    return 100 * math.expm1(spread * float(raised))

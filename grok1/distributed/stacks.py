"""Where ranks stood when a job made no progress: stacks asked for, read, and told in a few lines. No torch."""

from __future__ import annotations

import linecache
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok1.distributed.progress import ASK, Mark, stack_path

_ANSWER_SECONDS = 2.0
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_HOUSE = Path(__file__).resolve().parents[2]
_OURS = ("grok1", "bench", "reports", "tests")  # in the sources, or among all that is installed
_OWN_FRAMES = 3
_SPANS = 16  # in a list of ranks
_LOOKED_AT = 3  # innermost frames in which a rank that waits for others says so
_WAITS = re.compile(r"\.(wait|synchronize|barrier|monitored_barrier|recv|all_gather\w*|all_reduce|all_to_all\w*)\(")


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int
    name: str

    @property
    def is_ours(self) -> bool:
        """Whether this project's code is at work."""
        place = Path(self.file)
        return place.is_relative_to(_HOUSE) and place.relative_to(_HOUSE).parts[0] in _OURS

    @property
    def waits_for_others(self) -> bool:
        """Whether this is a collective or the wait for one."""
        source = linecache.getline(self.file, self.line)
        return "/torch/distributed/" in self.file or bool(_WAITS.search(source))

    def __str__(self) -> str:
        parts = Path(self.file).parts
        place = Path(self.file).relative_to(_HOUSE) if self.is_ours else "/".join(parts[-3:])
        return f"{place}:{self.line} {self.name}"


def ask_for_stacks(folder: Path, processes: Mapping[int, int]) -> dict[int, list[Frame]]:
    """The stacks of ranks' main threads, innermost frame first, by rank; `processes` are the ranks' process ids.

    Empty where a rank does not answer, as one that is stopped cannot.
    """
    before = {rank: _size(folder, rank) for rank in processes}
    asked = [rank for rank, process in processes.items() if before[rank] >= 0 and _signal(process)]
    deadline = time.monotonic() + _ANSWER_SECONDS
    while any(_size(folder, rank) <= before[rank] for rank in asked) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)  # for the rest of what is being written
    return {rank: _read(folder, rank, max(0, before[rank])) for rank in processes}


def _signal(process: int) -> bool:
    try:
        os.kill(process, ASK)
    except ProcessLookupError:
        return False
    return True


def _size(folder: Path, rank: int) -> int:
    try:
        return stack_path(folder, rank).stat().st_size
    except OSError:
        return -1


def _read(folder: Path, rank: int, start: int) -> list[Frame]:
    try:
        return frames(stack_path(folder, rank).read_bytes()[start : start + (1 << 16)])
    except OSError:
        return []


def frames(text: bytes) -> list[Frame]:
    """The frames in what `faulthandler` wrote, innermost first."""
    found = filter(None, map(_FRAME.match, text.decode(errors="replace").splitlines()))
    return [Frame(each["file"], int(each["line"]), each["name"]) for each in found]


def is_waiting(stack: list[Frame]) -> bool:
    """Whether a rank waits for others, as far as its stack tells."""
    return any(frame.waits_for_others for frame in stack[:_LOOKED_AT])


def told(marks: Mapping[int, Mark], stacks: Mapping[int, list[Frame]], stopped: set[int]) -> str:
    """A block of lines for all ranks that stood at the same place."""
    return grouped(
        {rank: block(mark, stacks.get(rank, []), is_stopped=rank in stopped) for rank, mark in marks.items()}
    )


def grouped(blocks: Mapping[int, str]) -> str:
    """What is to be said of each rank, once for all of whom the same is said."""
    ranks: dict[str, list[int]] = {}
    for rank, text in blocks.items():
        ranks.setdefault(text, []).append(rank)
    return "\n".join(f"  {rank_list(each)}: {text}" for text, each in ranks.items())


def block(mark: Mark, stack: list[Frame], *, is_stopped: bool) -> str:
    """Where a rank stands: its step, what it does, and the frames that matter."""
    step = (
        f"in step {mark.step + 1}" if mark.is_in_step else f"after step {mark.step + 1}" if mark.count else "starting"
    )
    if is_stopped:
        return f"{step}, stopped"
    if not stack:
        return f"{step}, does not answer"
    how = "waits for other ranks" if is_waiting(stack) else "at work"
    ours = [frame for frame in stack[1:] if frame.is_ours][:_OWN_FRAMES]
    return "\n".join([f"{step}, {how}", *(f"      {frame}" for frame in [stack[0], *ours])])


def rank_list(ranks: Sequence[int]) -> str:
    """As in "ranks 0-2, 5"; after some, how many more there are."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans[:_SPANS])
    left = sum(last - first + 1 for first, last in spans[_SPANS:])
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {text}{f' and {left} more' if left else ''}"

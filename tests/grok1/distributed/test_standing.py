"""When ranks count as stalled, and who is named for it; counted in beats, without any process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grok1.distributed.progress import Mark, seconds_allowed
from grok1.distributed.standing import Marks, Stand, cause, told

IN_STEP = Mark(count=5, step=2, slowest_step_seconds=0.5, is_in_step=True)
NAMES = {rank: f"rank {rank} on node 0 (a)" for rank in range(20)}
WAITS, WORKS = Stand("waits", "x:1 barrier", "in step 3, waits"), Stand("works", "y:2 run", "in step 3, at work")


def _ends_at(marks: list[Mark], ranks: int = 2, limit: float | None = None, most: int = 200) -> int | None:
    """The beat at which ranks that stay as they are count as stalled; a beat is two seconds."""
    known = Marks(ranks, limit)
    for beat in range(most):
        for rank, mark in enumerate(marks):
            known.note(rank, mark, beat)
        if known.stalled_seconds(beat, 2.0) is not None:
            return beat
    return None


@pytest.mark.parametrize(
    ("slowest", "limit", "beat"), [(0.5, None, 15), (3.0, None, 30), (3.0, 10.0, 5), (0, 9.0, None)]
)
def test_the_limit_is_the_steps_own_time_or_the_option(slowest: float, limit: float | None, beat: int | None) -> None:
    assert _ends_at([replace(IN_STEP, slowest_step_seconds=slowest)] * 2, limit=limit) == beat


def test_there_is_no_limit_where_a_rank_is_not_heard_or_in_no_step_or_debugged() -> None:
    assert _ends_at([IN_STEP] * 2, ranks=3) is None
    assert _ends_at([IN_STEP, replace(IN_STEP, is_in_step=False)]) is None
    assert _ends_at([IN_STEP, replace(IN_STEP, is_debugged=True)]) is None
    assert seconds_allowed([], None) is None


def test_one_rank_that_goes_on_is_progress() -> None:
    known = Marks(2, 10.0)
    for beat in range(40):
        known.note(0, IN_STEP, beat)
        known.note(1, replace(IN_STEP, count=beat // 4), beat)
        assert known.stalled_seconds(beat, 2.0) is None


def test_a_rank_that_is_done_ends_the_limit() -> None:
    known = Marks(2, 10.0)
    for rank in (0, 1):
        known.note(rank, IN_STEP, 0)
    assert known.stalled_seconds(5, 2.0) == 10.0
    known.forget(1)
    assert known.stalled_seconds(5, 2.0) is None


@pytest.mark.parametrize(
    ("stands", "start"),
    [
        ([WAITS, WORKS], "rank 1 on node 0 (a) hangs at y:2 run; no rank went on for 31 s (--progress-timeout"),
        ([WAITS, Stand("silent")], "rank 1 on node 0 (a) hangs, and does not answer; no rank"),
        ([WORKS, Stand("stopped")], "rank 1 on node 0 (a) is stopped, as by SIGSTOP; no rank"),
        ([WAITS, WAITS], "no rank went on for 31 s: all wait for each other (--progress-timeout"),
        ([WAITS] + [WORKS] * 10, "rank 1 on node 0 (a), rank 2 on node 0 (a), "),
    ],
)
def test_the_rank_that_keeps_the_others_waiting_is_named(stands: list[Stand], start: str) -> None:
    said = cause(dict(enumerate(stands)), NAMES, 31.4)
    assert said.startswith(start)
    assert ("rank 8 on node 0 (a) and 2 more hang at" in said) == (len(stands) == 11)


def test_ranks_that_stand_at_the_same_place_are_told_together() -> None:
    assert told({2: WAITS, 0: WAITS, 1: WORKS}) == (
        "where the ranks stood:\n  ranks 0, 2: in step 3, waits\n  rank 1: in step 3, at work"
    )

"""A job that makes no progress ends, names the rank that keeps the others waiting, and says where each stood."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grok1.config.load import load_recipe
from grok1.device import process_state
from grok1.distributed import launch as launching
from grok1.distributed import watchdog
from grok1.distributed.failure import Failure, cause
from grok1.distributed.launch import RankFailedError, launch
from grok1.distributed.memory_limit import oom_kills
from grok1.distributed.progress import Mark
from grok1.distributed.stacks import Frame, told
from grok1.distributed.watchdog import Watchdog
from tests.grok1.conftest import TWO_RANKS

ENTRIES = "tests.grok1.distributed.rank_entries"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says how its processes fare")


def _launch(entry: str, progress_seconds: float) -> object:
    recipe = load_recipe("grok1-nano", TWO_RANKS)
    return launch(recipe, recipe, "cpu", entry=f"{ENTRIES}:{entry}", progress_seconds=progress_seconds)


@pytest.mark.slow
def test_a_rank_that_hangs_is_told_from_those_that_wait_for_it() -> None:
    with pytest.raises(RankFailedError) as caught:
        _launch("hang_on_rank_one", 3)
    assert caught.value.rank == 1
    said = str(caught.value)
    assert re.search(r"\n  rank 0: in step 3, waits for other ranks\n      .*distributed_c10d\.py:\d+ barrier", said), (
        said
    )
    assert re.search(r"\n  rank 1: in step 3, at work\n      tests/\S*rank_entries\.py:\d+ hang_on_rank_one\n", said)
    last = said.splitlines()[-1]
    assert re.match(r"no progress for \d+ s: it hangs at tests/\S*rank_entries\.py:\d+ hang_on_rank_one", last)
    assert len(said.splitlines()) < 20


@pytest.mark.slow
def test_a_stopped_rank_ends_the_job_in_whatever_it_was_stopped() -> None:
    with pytest.raises(RankFailedError, match=r"rank 1: starting, stopped(.|\n)*its process is stopped") as caught:
        _launch("stop_on_rank_one", 3)
    assert caught.value.rank == 1


@pytest.mark.slow
def test_a_slow_first_step_and_a_slow_save_end_nothing() -> None:
    assert _launch("be_slow_for_good_reasons", 2) == "done"


IN_STEP = Mark(count=5, step=2, slowest_step_seconds=0.5, is_in_step=True)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The watchdog's clock, and no process to look at."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watchdog, "ask_for_stacks", lambda *_: {0: [], 1: []})
    monkeypatch.setattr(process_state, "_status", lambda *_: "")
    return now


def _ends_after(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch, marks: list[Mark], limit: float | None, most: float
) -> float | None:
    """The seconds after which the watchdog says something, where the ranks stay as they are."""
    monkeypatch.setattr(watchdog, "read_mark", lambda _, rank: marks[rank])
    dog, started = Watchdog(Path(), limit), seconds[0]
    while seconds[0] - started < most:
        if dog.look({0: 1, 1: 2}):
            return seconds[0] - started
        seconds[0] += watchdog.LOOK_SECONDS
    return None


@pytest.mark.parametrize(
    ("slowest", "limit", "ends_after"),
    [(0.5, None, 30), (3.0, None, 60), (3.0, 10.0, 10), (0.5, 0.0, None), (0.0, None, None)],
)
def test_the_limit_is_the_steps_own_time_or_the_option(
    seconds: list[float],
    monkeypatch: pytest.MonkeyPatch,
    slowest: float,
    limit: float | None,
    ends_after: float | None,
) -> None:
    marks = [replace(IN_STEP, slowest_step_seconds=slowest)] * 2
    assert _ends_after(seconds, monkeypatch, marks, limit, 200) == ends_after


@pytest.mark.parametrize("changed", [{"is_debugged": True}, {"is_in_step": False}])
def test_a_debugger_and_what_is_no_step_have_no_limit(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch, changed: dict[str, bool]
) -> None:
    assert _ends_after(seconds, monkeypatch, [IN_STEP, replace(IN_STEP, **changed)], None, 1000) is None


@pytest.mark.parametrize(("field", "value"), [("State", "T (stopped)"), ("TracerPid", "17")])
def test_a_stopped_rank_is_ended_and_one_that_gdb_holds_is_not(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    monkeypatch.setattr(process_state, "_status", lambda _, asked: value if asked == field else "")
    ended = _ends_after(seconds, monkeypatch, [IN_STEP] * 2, None, 200)
    assert ended == (30 if field == "State" else None)


def test_a_launcher_that_was_itself_stopped_counts_only_what_it_was_awake_for(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "read_mark", lambda *_: IN_STEP)
    dog = Watchdog(Path(), None)
    for pause in (0, 2, 3600, 2):
        seconds[0] += pause
        assert not dog.look({0: 1, 1: 2})


def test_ranks_that_stand_at_the_same_place_share_a_block() -> None:
    stack = [Frame("/x/torch/distributed/distributed_c10d.py", 7, "barrier"), Frame(__file__, 1, "test")]
    text = told(dict.fromkeys(range(5), IN_STEP), dict.fromkeys((0, 1, 2, 4), stack), {3})
    assert text.splitlines()[0] == "  ranks 0-2, 4: in step 3, waits for other ranks"
    assert text.splitlines()[-1] == "  rank 3: in step 3, stopped"


def test_a_node_whose_ranks_only_wait_is_never_the_cause() -> None:
    waiting = Failure(kind="stalled", when=1.0, node="node 1 (b)", details="the ranks here wait for others")
    hung = Failure(kind="hung", when=2.0, rank=0, node="node 0 (a)", details="it hangs")
    assert cause([waiting, hung]) == hung


@pytest.mark.parametrize(
    ("groups", "name"),
    [("0::/job", "job/memory.events"), ("0::/job", "memory.events"), ("4:memory:/job", "memory/memory.oom_control")],
)
def test_the_kernels_count_of_those_that_it_ended_is_found(tmp_path: Path, groups: str, name: str) -> None:
    (tmp_path / "groups").write_text(f"1:name=systemd:/\n{groups}\n")
    counts = tmp_path / "mounted" / name
    counts.parent.mkdir(parents=True)
    counts.write_text("oom 9\noom_kill 3\n")
    assert oom_kills(tmp_path / "groups", tmp_path / "mounted") == 3


@pytest.mark.slow
def test_a_rank_that_the_memory_limit_ended_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([7, 8])
    monkeypatch.setattr(launching, "oom_kills", lambda: next(counts))
    with pytest.raises(RankFailedError, match=r"killed by signal 9 .*; the memory limit ended it: use fewer ranks"):
        _launch("die_on_rank_one", 0)

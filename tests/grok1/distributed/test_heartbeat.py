"""Hearts beside ranks that compute nothing, at a hurried pace: who is lost, who is only slow, and what all then say."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from grok1.distributed.heartbeat import _PROGRAM
from tests.grok1.conftest import ROOT
from tests.limits import HANG_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hearts read /proc")
RANK = """
import ctypes, json, sys, threading, time
from grok1.distributed.heartbeat import Meeting, Pace, heartbeat, open_meeting
from grok1.distributed.progress import PROGRESS
from grok1.distributed.rendezvous import Rendezvous

rank, ranks, per_node = map(int, sys.argv[1:4])
limit = float(sys.argv[4]) if sys.argv[4] else None
where = Rendezvous("tcp://127.0.0.1:1", rank, ranks, 0, per_node, host=f"host{rank}", progress_seconds=limit)
PROGRESS.write_here()

def hang_at_home():
    time.sleep(600)

def barrier():
    threading.Event().wait(600)

pace = Pace(beat_seconds=0.1, silence_beats=20, moment_beats=10)
meeting, listener = open_meeting(where) if rank == 0 else (Meeting(*json.loads(sys.stdin.readline())), None)
if rank == 0:
    print(json.dumps([meeting.name, meeting.port, meeting.token]), flush=True)
with heartbeat(where, meeting, listener, pace):
    print("beats", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["hold", seconds]:  # Python's lock, in C
                ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
                print("held", flush=True)
            case ["wait"]:  # in C, without the lock: as a collective that nobody answers
                while True:  # whatever signals come
                    ctypes.CDLL(None).pause()
            case ["step", seconds]:
                with PROGRESS.step(PROGRESS._steps):
                    time.sleep(float(seconds))
                print("stepped", flush=True)
            case ["hang", how]:
                with PROGRESS.step(PROGRESS._steps):
                    hang_at_home() if how == "home" else barrier()
            case ["raise"]:
                raise RuntimeError("an error of its own")
            case ["done"]:
                break
"""


class Rank:
    """A process of a job, with its heart."""

    def __init__(
        self, rank: int, ranks: int, per_node: int, meeting: str = "", limit_seconds: float | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(ranks), str(per_node), str(limit_seconds or "")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if meeting:
            self.tell(meeting.strip())
        self.meeting = meeting or self.heard()

    @property
    def pid(self) -> int:
        return self._process.pid

    def heart(self) -> psutil.Process:
        (heart,) = psutil.Process(self.pid).children()
        return heart

    def heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """Exit code and what was said on standard error."""
        _, said = self._process.communicate(timeout=HANG_SECONDS)
        return self._process.returncode, said

    def kill(self) -> None:
        if self._process.poll() is None:
            for heart in psutil.Process(self.pid).children():
                heart.kill()
            self._process.kill()
        self._process.communicate()


Job = Callable[..., list[Rank]]


@pytest.fixture
def job() -> Iterator[Job]:
    ranks: list[Rank] = []

    def start(number: int = 2, per_node: int = 1, limit_seconds: float | None = None) -> list[Rank]:
        for rank in range(number):
            ranks.append(Rank(rank, number, per_node, ranks[0].meeting if ranks else "", limit_seconds))
        assert [rank.heard() for rank in ranks] == ["beats\n"] * number
        first, deadline = ranks[0].heart(), time.monotonic() + HANG_SECONDS
        while len(_connections(first)) < number - 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)  # until all hearts have met
        return ranks

    yield start
    for rank in ranks:
        rank.kill()


def _connections(heart: psutil.Process) -> list[int]:
    """The ports of those that talk to it."""
    return [each.raddr.port for each in heart.net_connections() if each.status == psutil.CONN_ESTABLISHED]


def _waiting(ranks: list[Rank]) -> list[Rank]:
    """For others, as in a collective."""
    for rank in ranks:
        rank.tell("wait")
    return ranks


def _ends(rank: int, who: str) -> tuple[int, str]:
    return 1, f"grok1: rank {rank} on node {rank} (host{rank}) ends: {who}\n"


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_stopped_rank_ends_all_and_itself_and_is_named(job: Job, lost: int) -> None:
    ranks = _waiting(job(3))
    os.kill(ranks[lost].pid, signal.SIGSTOP)
    who = f"rank {lost} on node {lost} (host{lost}) is stopped, as by SIGSTOP"
    ended = [rank.ended() for rank in ranks]
    assert ended[1:] == [_ends(number, who) for number in (1, 2)]
    code, line = _ends(0, who)
    assert (ended[0][0], ended[0][1].splitlines(keepends=True)[-1]) == (code, line)
    assert ended[0][1].startswith("grok1: where the ranks stood:\n  ")
    assert f"\n  rank {lost}: starting, stopped\n" in f"{ended[0][1]}"


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_and_is_told_from_those_that_wait_for_it(job: Job) -> None:
    ranks = job(3, limit_seconds=3.0)
    for _ in range(2):
        for rank in ranks:
            rank.tell("step 0.05")
        assert [rank.heard() for rank in ranks] == ["stepped\n"] * 3
    for number, rank in enumerate(ranks):
        rank.tell("hang home" if number == 1 else "hang abroad")
    said = [rank.ended() for rank in ranks]
    who = (
        r"rank 1 on node 1 \(host1\) hangs at <string>:\d+ hang_at_home; no rank went on for \d+ s \(--progress-timeout"
    )
    for number, (code, text) in enumerate(said):
        assert code == 1
        assert re.match(
            rf"grok1: rank {number} on node {number} \(host{number}\) ends: {who}", text.splitlines()[-1]
        ), text
    assert [len(text.splitlines()) for _, text in said[1:]] == [1, 1]
    stood = said[0][1]
    assert "\n  ranks 0, 2: in step 3, waits for other ranks\n" in stood, stood
    assert "\n  rank 1: in step 3, at work\n      <string>:" in stood


@pytest.mark.slow
def test_slow_first_steps_and_what_is_no_step_have_no_limit(job: Job) -> None:
    ranks = job(limit_seconds=1.0)
    for words in ("step 3", "step 0.05", "hold 3"):
        for rank in ranks:
            rank.tell(words)
        assert [rank.heard() for rank in ranks] == ["held\n" if "hold" in words else "stepped\n"] * 2
    for rank in ranks:
        rank.tell("done")
    assert [rank.ended() for rank in ranks] == [(0, "")] * 2


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_that_is_no_longer_heard_ends_the_others_and_is_named(job: Job, lost: int) -> None:
    """A heart that is stopped together with its rank says nothing, as one beyond a cut cable."""
    ranks = _waiting(job(3))
    for each in (ranks[lost].heart().pid, ranks[lost].pid):
        os.kill(each, signal.SIGSTOP)
    who = (
        f"rank {lost} on node {lost} (host{lost}) was not heard for 2 s: its machine has stopped, or the network is cut"
    )
    others = [number for number in range(3) if number != lost]
    assert [ranks[number].ended() for number in others] == [_ends(number, who) for number in others]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(("lost", "how"), [(0, "killed"), (0, "raise"), (1, "killed with its heart"), (1, "raise")])
def test_a_rank_that_ends_before_its_work_is_done_ends_the_others(job: Job, lost: int, how: str) -> None:
    ranks = job()
    ranks[lost].tell("raise" if how == "raise" else "wait")
    _waiting([ranks[1 - lost]])
    if how != "raise":
        heart = ranks[lost].heart().pid
        os.kill(ranks[lost].pid, signal.SIGKILL)
        if how != "killed":
            os.kill(heart, signal.SIGKILL)
    who = f"rank {lost} on node {lost} (host{lost}) has ended before its work was done"
    assert ranks[1 - lost].ended() == _ends(1 - lost, who)


@pytest.mark.slow
def test_a_rank_that_holds_pythons_lock_for_long_is_not_lost(job: Job) -> None:
    """As code in C++ does that compiles or writes a file."""
    ranks = job()
    for rank in ranks:
        rank.tell("hold 4")  # twice the time after which a silent one is lost
    assert [rank.heard() for rank in ranks] == ["held\n"] * 2
    for rank in ranks:
        rank.tell("done")
    assert [rank.ended() for rank in ranks] == [(0, "")] * 2


@pytest.mark.slow
def test_hearts_that_have_no_time_lose_nobody(job: Job) -> None:
    """All stopped together for longer than the limit, as a machine that is suspended."""
    ranks = job()
    hearts = [rank.heart().pid for rank in ranks]
    for number, seconds in ((signal.SIGSTOP, 4), (signal.SIGCONT, 2)):
        for heart in hearts:
            os.kill(heart, number)
        time.sleep(seconds)
    for rank in ranks:
        rank.tell("done")
    assert [rank.ended() for rank in ranks] == [(0, "")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_may_be_done_long_before_the_others(job: Job, first: int) -> None:
    ranks = job()
    ranks[first].tell("done")
    assert ranks[first].ended() == (0, "")
    time.sleep(3)
    ranks[1 - first].tell("done")
    assert ranks[1 - first].ended() == (0, "")


@pytest.mark.slow
def test_a_heart_that_cannot_be_reached_is_told_once_and_ends_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
    rank = Rank(1, 2, 1, f'["rank 0 on node 0 (host0)", {port}, "token"]')
    assert rank.heard() == "beats\n"
    time.sleep(4)
    rank.tell("done")
    code, said = rank.ended()
    assert code == 0
    assert said.startswith(
        f"grok1: rank 1 on node 1 (host1) does not reach rank 0 on node 0 (host0) at 127.0.0.1 port {port} ("
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize("per_node", [2, 1])
def test_hearts_meet_at_the_address_of_the_job_alone(job: Job, per_node: int) -> None:
    heart = job(per_node=per_node)[0].heart()
    (address,) = {each.laddr.ip for each in heart.net_connections() if each.status == psutil.CONN_LISTEN}
    assert address == "127.0.0.1"


@pytest.mark.slow
def test_a_stranger_is_not_believed(job: Job) -> None:
    ranks = job()
    _, port, _ = json.loads(ranks[0].meeting)
    for words in (b'["hello", "guess", "rank 9"]\n["failed", "stopped"]\n', b"GET / HTTP/1.1\r\n\r\n", b"[" * 70_000):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(words)
            time.sleep(0.3)
    time.sleep(2)
    for rank in ranks:
        rank.tell("done")
    assert [rank.ended() for rank in ranks] == [(0, "")] * 2


def test_a_heart_takes_nothing_but_ours_from_where_we_are_installed(tmp_path: Path) -> None:
    """There, a package that is called like the standard library's would come first."""
    (tmp_path / "json.py").write_text("raise SystemExit('not the standard library')\n")
    (tmp_path / "grok1").symlink_to(ROOT / "grok1")
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(tmp_path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")  # without settings it ends at once

"""Signs of life between ranks that torchrun or Slurm started: a peer that is lost or stopped ends every rank.

A collective that waits for a lost machine ends after ten minutes only. So each rank has a small process beside it (see
`grok1.distributed.heart`), and these talk to each other. No torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from grok1.distributed.heart import END, Settings
from grok1.distributed.listening import listening
from grok1.distributed.progress import PROGRESS
from grok1.distributed.rendezvous import Rendezvous

SILENCE_BEATS = 20  # one a second; after so many the rank counts as lost
_LEAVE_SECONDS = 5.0
_HOUSE = Path(__file__).resolve().parents[2]
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from grok1.distributed.heart import main; main()"


@dataclass(frozen=True)
class Pace:
    """How often hearts beat, and after how many beats what happens."""

    beat_seconds: float = 1.0
    silence_beats: int = SILENCE_BEATS  # a rank that is silent or stopped for so long is lost
    moment_beats: int = 5  # after a rank has ended, for the others to say so themselves; for an answer at the start


@dataclass(frozen=True)
class Meeting:
    """Where rank 0's heart listens; all others are told."""

    name: str  # of rank 0, as in "rank 0 on node 0 (host)"
    port: int
    token: str


def open_meeting(where: Rendezvous) -> tuple[Meeting, socket.socket]:
    """On rank 0: a place for the hearts to meet. On a job of one machine it is on the loopback interface alone."""
    listener = listening(_host(where), 0, is_one_machine=where.is_one_machine, backlog=where.world_size)
    return Meeting(_name(where), listener.getsockname()[1], secrets.token_hex(16)), listener


@contextlib.contextmanager
def heartbeat(
    where: Rendezvous, meeting: Meeting, listener: socket.socket | None = None, pace: Pace = Pace()
) -> Iterator[None]:
    """While this lasts, a rank that is lost, stopped or hangs ends this process: one line that names it, exit code 1.

    A rank hangs where all are in one step for too long (`progress.seconds_allowed`); rank 0's heart then prints where
    each stood.
    """
    heart = _start(where, meeting, listener, pace)
    assert heart.stdin is not None
    threading.Thread(target=_obey, args=(heart,), daemon=True).start()
    try:
        yield
        with contextlib.suppress(OSError):
            heart.stdin.write(b"done")
    finally:
        with contextlib.suppress(OSError):
            heart.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        heart.wait(_LEAVE_SECONDS)


def _start(where: Rendezvous, meeting: Meeting, listener: socket.socket | None, pace: Pace) -> subprocess.Popen[bytes]:
    marks, stack = PROGRESS.descriptors or (None, None)
    listens = None if listener is None else listener.fileno()
    heart = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, _HOUSE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=[each for each in (listens, marks, stack) if each is not None],
    )
    settings = Settings(
        process=os.getpid(),
        rank=where.rank,
        ranks=where.world_size,
        name=_name(where),
        first=meeting.name,
        token=meeting.token,
        host=_host(where),
        port=meeting.port,
        listener=listens,
        marks=marks,
        stack=stack,
        progress_seconds=where.progress_seconds,
        beat_seconds=pace.beat_seconds,
        silence_beats=pace.silence_beats,
        moment_beats=pace.moment_beats,
    )
    assert heart.stdin is not None
    heart.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
    if listener is not None:
        listener.close()
    return heart


def _obey(heart: subprocess.Popen[bytes]) -> None:
    """End this process when the heart says so; it has said why. A collective or C++ that waits is no obstacle."""
    assert heart.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        if heart.stdout.read(1) == END:
            os._exit(1)


def _name(where: Rendezvous) -> str:
    return f"rank {where.rank} on {where.node_name}"


def _host(where: Rendezvous) -> str:
    """Where rank 0's machine is reached from this one."""
    host, _ = where.address
    if where.is_one_machine:
        return "::1" if ":" in host else "127.0.0.1"
    return host

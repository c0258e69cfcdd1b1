"""A rank's heart: a small process beside it that says to the others' hearts that the rank lives.

It needs the standard library alone, and what of ours needs no more. A thread of the rank would fall silent while C++
code holds Python's lock, as some does while it compiles or writes a file. A process of its own beats on, and sees by
itself whether its rank is stopped or has ended. All hearts talk to rank 0's, which says who was lost. Time is counted
in beats of one's own: on a machine that has no time for anybody, or is suspended, nobody is silent. Each says with
every beat how far its rank is. Where none goes on for too long, rank 0's asks all where they stand.

It is started by `grok1.distributed.heartbeat`, which writes the settings to its standard input, then "done" at the end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass

from grok1.device.process_state import is_stopped
from grok1.distributed.heart_channel import HeartChannel
from grok1.distributed.progress import Mark
from grok1.distributed.standing import Marks, OwnRank, Stand, cause, told

_OBEY_SECONDS = 5.0  # for the rank to end by itself once it is told
_CONNECT_ATTEMPTS = 5
_ANSWER_SECONDS = 20.0  # rank 0's heart may still be starting; who hangs up after "hello" counts as ended
_NAMED = 8  # ranks in one line
_ENDED = "has ended before its work was done"
_STOPPED = "is stopped, as by SIGSTOP"
END = b"E"  # to the rank: end now


@dataclass(frozen=True)
class Settings:
    """What a heart is told about its rank; see `grok1.distributed.heartbeat`."""

    process: int
    rank: int
    ranks: int
    name: str
    first: str
    token: str
    host: str
    port: int
    listener: int | None
    marks: int | None
    stack: int | None
    progress_seconds: float | None
    beat_seconds: float
    silence_beats: int
    moment_beats: int


class _Heart:
    """What rank 0's heart and the others' have in common."""

    def __init__(self, given: Settings) -> None:
        self._process, self.name, self.token, self.given = given.process, given.name, given.token, given
        self.beat_seconds, self.silence_beats, self.moment_beats = (
            given.beat_seconds,
            given.silence_beats,
            given.moment_beats,
        )
        self._stop_beats = int((given.progress_seconds or 0) / self.beat_seconds) or self.silence_beats
        self.own = OwnRank(given.process, given.marks, given.stack)
        self.asked_at: int | None = None  # the beat at which the rank was asked where it stands
        self.selector = selectors.DefaultSelector()
        self.beats = 0
        self.is_over = False
        self._stopped_beats = 0
        self._verdict: tuple[int, str] | None = None  # the beat at which the rank ends, and why
        self.selector.register(0, selectors.EVENT_READ, self._hear_rank)

    def run(self) -> None:
        """Until the job is over, for good or bad."""
        next_beat = time.monotonic()
        while not self.is_over:
            self._hear(max(0.0, next_beat - time.monotonic()))
            if time.monotonic() >= next_beat and not self.is_over:
                self._hear(0.0)  # what came while this process had no time is heard before anybody is judged
                self.beats += 1
                next_beat = time.monotonic() + self.beat_seconds
                self._look_at_rank()
                self.beat()
            if self._verdict is not None and self.beats >= self._verdict[0] and not self.is_over:
                self._end(self._verdict[1])

    def _hear(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            if not self.is_over and self.selector.get_map().get(key.fd) == key:
                key.data()

    def _hear_rank(self) -> None:
        said = os.read(0, 100)
        if said:
            self.left()
        else:
            self.ended()
        self.is_over = True

    def _look_at_rank(self) -> None:
        if os.getppid() != self._process:
            self.ended()
            self.is_over = True
            return
        self._stopped_beats = self._stopped_beats + 1 if is_stopped(self._process) else 0
        if self._stopped_beats == self._stop_beats:
            self.stopped()

    def ask(self) -> None:
        """Ask the rank where it stands; the answer may take a beat or two."""
        if self.asked_at is None:
            self.asked_at = self.beats
            self.own.ask()

    def answer(self) -> Stand | None:
        """Where the rank stands, once it was asked and has answered, or is given up."""
        if self.asked_at is None or self.beats == self.asked_at:
            return None
        stand = self.own.stand()
        return Stand("silent") if stand is None and self.beats >= self.asked_at + self.moment_beats else stand

    def decide(self, beats: int, why: str) -> None:
        """This rank ends after so many beats; the first word counts."""
        if self._verdict is None:
            self._verdict = self.beats + beats, why

    def _end(self, why: str) -> None:
        print(f"grok1: {self.name} ends: {_printable(why)}", file=sys.stderr, flush=True)
        time.sleep(2 * self.beat_seconds)  # all others say so too, before one's end makes connections fail
        with contextlib.suppress(OSError):
            os.write(1, END)
        self._signal(signal.SIGCONT)
        deadline = time.monotonic() + _OBEY_SECONDS
        while os.getppid() == self._process and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self.is_over = True

    def _signal(self, number: signal.Signals) -> None:
        if os.getppid() == self._process:
            os.kill(self._process, number)

    def beat(self) -> None:
        """Say that this rank lives, and count who says nothing."""

    def left(self) -> None:
        """The rank is done."""

    def ended(self) -> None:
        """The rank has ended without being done."""

    def stopped(self) -> None:
        """The rank is stopped, and has been for too long."""


class _First(_Heart):
    """Rank 0's: hears all others, and tells all who was lost."""

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._guests: list[HeartChannel] = []
        self._marks = Marks(self.given.ranks, self.given.progress_seconds)
        self._stands: dict[int, Stand] = {}
        self._names = {0: self.name}
        self._why_asked = ""  # the cause where it is known already
        self._stalled_seconds = 0.0
        self.selector.register(listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            guest = HeartChannel(self._listener.accept()[0])
            self._guests.append(guest)
            self.selector.register(guest.connection, selectors.EVENT_READ, functools.partial(self._hear_guest, guest))

    def _hear_guest(self, guest: HeartChannel) -> None:
        try:
            for words in guest.read():
                self._take(guest, words)
        except EOFError:
            self._drop(guest)
            if guest.name:
                self._tell(self.moment_beats, f"{guest.name} {_ENDED}")

    def _take(self, guest: HeartChannel, words: list[str]) -> None:
        match words:
            case ["hello", self.token, name, rank] if rank.isdecimal() and not guest.name:
                guest.name, guest.rank = name, int(rank)
                self._names[guest.rank] = name
                guest.send("hello", self.token)
            case ["alive", *mark] if guest.name:
                self._note(guest.rank, mark)
            case ["stands", state, place, block] if guest.name:
                self._stands[guest.rank] = Stand(state, place, block)
            case ["left"] if guest.name:
                self._drop(guest)
            case ["failed", "ended"] if guest.name:
                self._drop(guest)
                self._tell(self.moment_beats, f"{guest.name} {_ENDED}")
            case ["failed", "stopped"] if guest.name:
                self._inquire(f"{guest.name} {_STOPPED}")

    def _note(self, rank: int, mark: list[str]) -> None:
        with contextlib.suppress(ValueError, TypeError):
            count, step, slowest, in_step, debugged = mark
            said = Mark(int(count), int(step), float(slowest), in_step == "1", debugged == "1")
            self._marks.note(rank, said, self.beats)

    def _inquire(self, why: str) -> None:
        """Ask all where they stand before the job ends."""
        if self.asked_at is None and self._verdict is None:
            self._why_asked = why
            self.ask()
            for guest in self._guests:
                guest.send("where")

    def _drop(self, guest: HeartChannel) -> None:
        if guest in self._guests:
            self._marks.forget(guest.rank)
            self._guests.remove(guest)
            self.selector.unregister(guest.connection)
            guest.connection.close()

    def _tell(self, beats: int, why: str) -> None:
        if self._verdict is None:
            for guest in self._guests:
                guest.send("end later" if beats else "end", why)
        self.decide(beats, why)

    def beat(self) -> None:
        for guest in list(self._guests):
            silent_beats = guest.count_silence()
            if guest.name:
                guest.send("alive")
            elif silent_beats >= self.moment_beats:
                self._drop(guest)  # a stranger
        if any(guest.silent_beats >= self.silence_beats for guest in self._guests):
            # a machine's ranks fall silent together, but for a beat or two
            silent = [guest.name for guest in self._guests if guest.silent_beats >= self.silence_beats - 2]
            more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
            self._tell(0, f"{', '.join(silent[:_NAMED])}{more} {_not_heard(self)}")
        self._marks.note(0, self.own.mark(), self.beats)
        stalled_seconds = self._marks.stalled_seconds(self.beats, self.beat_seconds)
        if stalled_seconds is not None and self.asked_at is None:
            self._stalled_seconds = stalled_seconds
            self._inquire("")
        self._conclude()

    def _conclude(self) -> None:
        """End the job once all have said where they stand, or have had time to."""
        if self.asked_at is None or self._verdict is not None:
            return
        own = self.answer()
        if own is not None:
            self._stands[0] = own
        asked = [0, *(guest.rank for guest in self._guests if guest.name)]
        is_late = self.beats >= self.asked_at + 2 * self.moment_beats
        if is_late or all(rank in self._stands for rank in asked):
            stands = {rank: self._stands.get(rank, Stand("silent")) for rank in asked}
            print(f"grok1: {_printable_lines(told(stands))}", file=sys.stderr, flush=True)
            self._tell(0, self._why_asked or cause(stands, self._names, self._stalled_seconds))

    def left(self) -> None:
        for guest in self._guests:
            guest.send("over")

    def ended(self) -> None:
        self._tell(self.moment_beats, f"{self.name} {_ENDED}")

    def stopped(self) -> None:
        self._inquire(f"{self.name} {_STOPPED}")


class _Other(_Heart):
    """Another rank's: hears rank 0's alone."""

    _has_answered = False

    def call(self) -> bool:
        """Whether rank 0's heart answers; where a firewall is between, the job goes on without."""
        host, port, first = self.given.host, self.given.port, self.given.first
        self._first, said = first, ""
        for _ in range(_CONNECT_ATTEMPTS):
            try:
                self._channel = HeartChannel(
                    socket.create_connection((host, port), self.moment_beats * self.beat_seconds)
                )
                self._channel.send("hello", self.token, self.name, str(self.given.rank))
                self._channel.connection.settimeout(_ANSWER_SECONDS)
                if self._channel.read()[0] != ["hello", self.token]:
                    raise EOFError
                self.selector.register(self._channel.connection, selectors.EVENT_READ, self._hear_first)
            except (OSError, EOFError, IndexError) as error:
                said = str(error) or "another program answers"
                time.sleep(self.beat_seconds)
                continue
            return True
        print(
            f"grok1: {self.name} does not reach {first} at {_printable(host)} port {port} ({_printable(said)}): "
            "a rank that is lost will be noticed after --collective-timeout",
            file=sys.stderr,
            flush=True,
        )
        return False

    def _hear_first(self) -> None:
        try:
            for words in self._channel.read():
                match words:
                    case ["over"]:
                        self.is_over = True
                    case ["where"]:
                        self.ask()
                    case ["end", why]:
                        self.decide(0, why)
                    case ["end later", why]:
                        self.decide(self.moment_beats, why)
        except EOFError:
            self.selector.unregister(self._channel.connection)
            self.decide(self.moment_beats, f"{self._first} {_ENDED}")

    def beat(self) -> None:
        mark = self.own.mark()
        flags = [f"{flag:d}" for flag in (mark.is_in_step, mark.is_debugged)]
        self._channel.send("alive", str(mark.count), str(mark.step), str(mark.slowest_step_seconds), *flags)
        stand = None if self._has_answered else self.answer()
        if stand is not None:
            self._has_answered = True
            self._channel.send("stands", stand.state, stand.place, stand.block)
        if self._channel.count_silence() >= self.silence_beats:
            self.decide(0, f"{self._first} {_not_heard(self)}")

    def left(self) -> None:
        self._channel.send("left")

    def ended(self) -> None:
        self._channel.send("failed", "ended")

    def stopped(self) -> None:
        self._channel.send("failed", "stopped")


def _not_heard(heart: _Heart) -> str:
    seconds = heart.silence_beats * heart.beat_seconds
    return f"was not heard for {seconds:g} s: its machine has stopped, or the network is cut"


def _printable_lines(text: str) -> str:
    return "\n".join("".join(each if each.isprintable() else "?" for each in line) for line in text.split("\n"))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:1000])


def main() -> None:
    """Beat until the rank is done, or lost, or another is."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # to the whole group: the rank's to handle
        signal.signal(number, signal.SIG_IGN)
    settings = b""
    while not settings.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            return
        settings += part
    given = Settings(**json.loads(settings))
    if given.listener is not None:
        first = _First(given)
        first.listen(socket.socket(fileno=given.listener))
        first.run()
        return
    other = _Other(given)
    if other.call():
        other.run()

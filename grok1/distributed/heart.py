"""A rank's heart: a small process beside it that says to the others' hearts that the rank lives.

It needs the standard library alone. A thread of the rank would fall silent while C++ code holds Python's lock, as some
does while it compiles or writes a file. A process of its own beats on, and sees by itself whether its rank is stopped
or has ended. All hearts talk to rank 0's, which says who was lost. Time is counted in beats of one's own: on a machine
that has no time for anybody, or is suspended, nobody is silent.

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

_MAX_BYTES = 1 << 16
_SEND_SECONDS = 2.0
_OBEY_SECONDS = 5.0  # for the rank to end by itself once it is told
_CONNECT_ATTEMPTS = 5
_NAMED = 8  # ranks in one line
_ENDED = "has ended before its work was done"
_STOPPED = "is stopped, as by SIGSTOP"
END = b"E"  # to the rank: end now


class _Channel:
    """Lines of JSON lists of strings over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self.connection = connection
        self.silent_beats = 0  # so far; 0 again whenever something is read
        self.name = ""  # as in "rank 1 on node 1 (host)"; empty before it has said so
        self._buffer = b""

    def send(self, *words: str) -> None:
        with contextlib.suppress(OSError):  # a connection that is gone is noticed where it is read
            self.connection.sendall(json.dumps(words).encode() + b"\n")

    def count_silence(self) -> int:
        """For how many beats nothing has come, this one included."""
        self.silent_beats += 1
        return self.silent_beats

    def read(self) -> list[list[str]]:
        """What has come; EOFError at the end and after nonsense."""
        try:
            part = self.connection.recv(_MAX_BYTES)
        except TimeoutError:
            return []
        except OSError:
            part = b""
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        if not part or len(self._buffer) > _MAX_BYTES:
            raise EOFError
        self.silent_beats = 0
        try:
            return [[str(word) for word in json.loads(line)] for line in lines]
        except (ValueError, TypeError, RecursionError):
            raise EOFError from None


class _Heart:
    """What rank 0's heart and the others' have in common."""

    def __init__(
        self, process: int, name: str, token: str, beat_seconds: float, silence_beats: int, moment_beats: int
    ) -> None:
        self._process, self.name, self.token = process, name, token
        self.beat_seconds, self.silence_beats, self.moment_beats = beat_seconds, silence_beats, moment_beats
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
        self._stopped_beats = self._stopped_beats + 1 if _is_stopped(self._process) else 0
        if self._stopped_beats == self.silence_beats:
            self.stopped()

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
        self._guests: list[_Channel] = []
        self.selector.register(listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            guest = _Channel(self._listener.accept()[0])
            self._guests.append(guest)
            self.selector.register(guest.connection, selectors.EVENT_READ, functools.partial(self._hear_guest, guest))

    def _hear_guest(self, guest: _Channel) -> None:
        try:
            for words in guest.read():
                self._take(guest, words)
        except EOFError:
            self._drop(guest)
            if guest.name:
                self._tell(self.moment_beats, f"{guest.name} {_ENDED}")

    def _take(self, guest: _Channel, words: list[str]) -> None:
        match words:
            case ["hello", self.token, name]:
                guest.name = name
                guest.send("hello", self.token)
            case ["left"] if guest.name:
                self._drop(guest)
            case ["failed", "ended"] if guest.name:
                self._drop(guest)
                self._tell(self.moment_beats, f"{guest.name} {_ENDED}")
            case ["failed", "stopped"] if guest.name:
                self._tell(0, f"{guest.name} {_STOPPED}")

    def _drop(self, guest: _Channel) -> None:
        if guest in self._guests:
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

    def left(self) -> None:
        for guest in self._guests:
            guest.send("over")

    def ended(self) -> None:
        self._tell(self.moment_beats, f"{self.name} {_ENDED}")

    def stopped(self) -> None:
        self._tell(0, f"{self.name} {_STOPPED}")


class _Other(_Heart):
    """Another rank's: hears rank 0's alone."""

    def call(self, host: str, port: int, first: str) -> bool:
        """Whether rank 0's heart answers; where a firewall is between, the job goes on without."""
        self._first, said = first, ""
        for _ in range(_CONNECT_ATTEMPTS):
            try:
                self._channel = _Channel(socket.create_connection((host, port), self.moment_beats * self.beat_seconds))
                self._channel.send("hello", self.token, self.name)
                self._channel.connection.settimeout(self.moment_beats * self.beat_seconds)
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
                    case ["end", why]:
                        self.decide(0, why)
                    case ["end later", why]:
                        self.decide(self.moment_beats, why)
        except EOFError:
            self.selector.unregister(self._channel.connection)
            self.decide(self.moment_beats, f"{self._first} {_ENDED}")

    def beat(self) -> None:
        self._channel.send("alive")
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


def _is_stopped(process: int) -> bool:
    """By SIGSTOP and the like; not by a debugger, whose processes are in another state. Linux; elsewhere never."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"T"
    return False


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
    given = json.loads(settings)
    own = [given[key] for key in ("process", "name", "token", "beat_seconds", "silence_beats", "moment_beats")]
    if given["listener"] is not None:
        first = _First(*own)
        first.listen(socket.socket(fileno=given["listener"]))
        first.run()
        return
    other = _Other(*own)
    if other.call(given["host"], given["port"], given["first"]):
        other.run()


if __name__ == "__main__":
    main()

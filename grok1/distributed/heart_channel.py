"""What two hearts say to each other, and how: lines of JSON lists of strings. The standard library alone."""

from __future__ import annotations

import contextlib
import json
import socket

_MAX_BYTES = 1 << 16
_SEND_SECONDS = 2.0


class HeartChannel:
    """Lines of JSON lists of strings over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self.connection = connection
        self.silent_beats = 0  # so far; 0 again whenever something is read
        self.name = ""  # as in "rank 1 on node 1 (host)"; empty before it has said so
        self.rank = -1
        self._buffer = b""

    def send(self, *words: str) -> None:
        """Say something; whether it comes is not known."""
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

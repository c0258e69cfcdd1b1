"""What the launchers of two nodes say to each other, and how: lines of JSON over a socket. No torch, no pickle."""

from __future__ import annotations

import socket
import threading
import time
from multiprocessing.connection import wait

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grok1.distributed.failure import Failure

MAX_LINE_BYTES = 1 << 16
SILENCE_SECONDS = 15.0  # after which a node counts as lost; TCP has tried again several times by then
_SEND_SECONDS = 2.0


class Hello(BaseModel):
    """Who a launcher is, and what it is about to run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    node: int = Field(ge=0)
    host: str = Field(max_length=255)
    token: str = Field(max_length=64)  # of this launcher, so that it knows itself
    terms: dict[str, str]


class Message(BaseModel):
    """One line; exactly one of these says something."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hello: Hello | None = None
    heard: str = ""  # node 0's host: the hello has come, and the others are waited for
    refused: str = ""  # there is no job, and why
    welcome: bool = False  # all have come: start the ranks
    alive: bool = False
    failed: Failure | None = None  # to node 0: what went wrong here
    verdict: Failure | None = None  # from node 0: why the job ends
    done: bool = False  # to node 0: all ranks here are done
    end: bool = False  # from node 0: all ranks everywhere are done, and have ended


class ProtocolError(ValueError):
    """What came is no message of ours."""


class Channel:
    """Messages over one connection. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self._connection = connection
        self._buffer = b""
        self._sending = threading.Lock()
        self._heard_at = time.monotonic()

    def count_silence_from_now(self) -> None:
        """Nobody has been listening so far."""
        self._heard_at = time.monotonic()

    def silence_seconds(self) -> float:
        """How long ago the other was last heard."""
        return time.monotonic() - self._heard_at

    def fileno(self) -> int:
        """For waiting."""
        return self._connection.fileno()

    @property
    def own_address(self) -> str:
        """This machine's address on the way to the other."""
        return str(self._connection.getsockname()[0])

    @property
    def address(self) -> str:
        """The other's address."""
        return str(self._connection.getpeername()[0])

    def send(self, message: Message) -> bool:
        """Whether the message could be handed over; the other may have gone all the same."""
        line = message.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            with self._sending:
                self._connection.sendall(line)
        except OSError:
            return False
        return True

    def read(self) -> list[Message]:
        """The messages that are here; call it when there is something to read.

        Raises:
            EOFError: the other has closed the connection.
            ProtocolError: what came is no message of ours.
        """
        try:
            part = self._connection.recv(MAX_LINE_BYTES)
        except TimeoutError:
            return []
        except OSError:
            part = b""
        if not part:
            raise EOFError
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
        self._heard_at = time.monotonic()
        try:
            return [Message.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise ProtocolError(f"no message of a launcher's: {error.errors()[0]['msg']}") from None

    def has_ended(self) -> bool:
        """Whether the other has closed the connection; reads nothing."""
        if not wait([self.fileno()], 0):
            return False
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

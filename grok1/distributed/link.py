"""The launchers of a running job: each says that it is alive, and what went wrong; node 0 says what the cause was.

A thread of the launcher's own, so that a launcher that waits for its ranks, or starts them, is heard all the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from grok1.distributed.channel import SILENCE_SECONDS, Message, ProtocolError
from grok1.distributed.failure import Failure, cause
from grok1.distributed.meeting import Party, Peer, meet
from grok1.distributed.nodes import Nodes, Terms

_BEAT_SECONDS = 1.0
_AGREE_SECONDS = 5.0  # for the other nodes' reports after a first failure
_VERDICT_SECONDS = 10.0  # for node 0's answer to such a report


@contextlib.contextmanager
def linked(nodes: Nodes, terms: Callable[[], Terms]) -> Iterator[NodeLink | None]:
    """The link to the job's other launchers; None on a job of one machine.

    Raises:
        ValueError: the nodes are not all there, or do not run the same.
    """
    if nodes.nnodes == 1:
        yield None
        return
    link = NodeLink(nodes.node_rank, meet(nodes, terms()))
    try:
        yield link
    except BaseException as error:
        link.tell(error)
        raise
    finally:
        link.close()


class NodeLink:
    """Talks to the other launchers. Readable (see `fileno`) once there is news."""

    def __init__(self, node: int, party: Party) -> None:
        self.name = party.name
        self._is_host = node == 0
        self._peers = {peer.node: peer for peer in party.peers}
        self._changed = threading.Condition()
        self._failures: list[Failure] = []  # the other nodes'
        self._reported: set[int] = set()  # nodes that have said all they will: failed, lost or done
        self._done: set[int] = set()
        self._verdict: Failure | None = None
        self._ended = False
        self._news, self._bell = os.pipe()
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable once another node has failed."""
        return self._news

    def failures(self) -> list[Failure]:
        """What the other nodes have said so far; the verdict alone, once there is one."""
        with self._changed:
            return [self._verdict] if self._verdict is not None else list(self._failures)

    def all_done(self) -> list[Failure]:
        """Say that all ranks here are done, and wait for the others' to be; returns what went wrong with them."""
        if not self._is_host:
            self._send(Message(done=True))
            return self.failures()
        with self._changed:
            self._changed.wait_for(lambda: self._failures or self._done >= self._peers.keys())
        return self.failures()

    def all_ended(self) -> list[Failure]:
        """After the ranks here have ended: wait until those of all nodes have. Returns what went wrong with them."""
        if self._is_host:
            self._ended = True
            self._send(Message(end=True))
            return []
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._failures or self._verdict)
            if self._ended:
                return []
        return self.failures()

    def agreed(self, failure: Failure) -> Failure:
        """Why the job ends, the same on every node: node 0 decides, from all nodes' reports."""
        with self._changed:
            if self._verdict is not None:
                return self._verdict
            if self._is_host:
                self._changed.wait_for(lambda: self._reported >= self._peers.keys(), _AGREE_SECONDS)
                self._verdict = cause([failure, *self._failures])
            verdict = self._verdict
        if verdict is not None:
            self._send(Message(verdict=verdict))
            return verdict
        if not self._send(Message(failed=failure)):
            return failure
        with self._changed:
            self._changed.wait_for(lambda: self._verdict or 0 in self._reported, _VERDICT_SECONDS)
            return self._verdict or cause([failure, *self._failures])

    def tell(self, error: BaseException) -> None:
        """Tell the others that this launcher ends by an error of its own, unless all know the cause already."""
        if self._verdict is not None or self._failures:
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        said = "was interrupted" if interrupted else f"ended: {type(error).__name__}: {error}"
        failure = Failure(
            kind="interrupted" if interrupted else "error", when=time.time(), node=self.name, details=said[:1000]
        )
        self._send(Message(verdict=failure) if self._is_host else Message(failed=failure))

    def close(self) -> None:
        """End the conversation."""
        os.close(self._stopping)
        self._thread.join()
        for peer in self._peers.values():
            peer.channel.close()
        for pipe in (self._stop, self._news, self._bell):
            os.close(pipe)

    def _send(self, message: Message) -> bool:
        sent = [peer.channel.send(message) for peer in self._peers.values()]
        return all(sent)

    # ---- the thread ----------------------------------------------------------------------------------------

    def _talk(self) -> None:
        heard = {peer.channel.fileno(): peer for peer in self._peers.values()}
        next_beat = 0.0
        for peer in heard.values():
            peer.channel.count_silence_from_now()
        while True:
            if time.monotonic() >= next_beat:
                for peer in heard.values():
                    peer.channel.send(Message(alive=True))
                next_beat = time.monotonic() + _BEAT_SECONDS
            ready = wait([self._stop, *heard], max(0.0, next_beat - time.monotonic()))
            if self._stop in ready:
                return
            heard = {number: peer for number, peer in heard.items() if self._still_there(peer, number in ready)}

    def _still_there(self, peer: Peer, has_said: bool) -> bool:
        """Hear what the peer has said, if anything; whether it may say more."""
        if has_said:
            return self._hear(peer)
        is_there = peer.channel.silence_seconds() <= SILENCE_SECONDS
        if not is_there:
            self._lose(peer, f"was not heard for {SILENCE_SECONDS:g} s: the network is cut, or it has stopped")
        return is_there

    def _hear(self, peer: Peer) -> bool:
        """Whether the peer may say more."""
        try:
            for message in peer.channel.read():
                self._take(peer, message)
        except EOFError:
            self._lose(peer, "has gone: its launcher ended without a word")
            return False
        except ProtocolError as error:
            self._lose(peer, f"cannot be understood ({error})")
            return False
        return True

    def _take(self, peer: Peer, message: Message) -> None:
        with self._changed:
            if message.failed is not None:
                self._failures.append(message.failed)
            if message.verdict is not None:
                self._verdict = message.verdict
            if message.done:
                self._done.add(peer.node)
            if message.failed is not None or message.verdict is not None or message.done:
                self._reported.add(peer.node)
            self._ended |= message.end
            self._changed.notify_all()
            if message.failed is not None or message.verdict is not None:
                os.write(self._bell, b"!")

    def _lose(self, peer: Peer, how: str) -> None:
        """A node that is no longer heard; after its own last word that is how conversations end."""
        with self._changed:
            is_over = self._ended or peer.node in self._reported - self._done
            self._reported.add(peer.node)
            if not is_over:
                self._failures.append(Failure(kind="lost", when=time.time(), node=peer.name, details=how))
                os.write(self._bell, b"!")
            self._changed.notify_all()

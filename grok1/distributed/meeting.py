"""How the launchers of a job's nodes find each other, before any rank starts. No torch.

Node 0 listens at the job's address and port until every other node has come, each with what it is about to run. All
go on together, or all end with the same line. The port is then free for rank 0, where the ranks meet.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait

from grok1.distributed.channel import SILENCE_SECONDS, Channel, Hello, Message, ProtocolError
from grok1.distributed.listening import listening
from grok1.distributed.nodes import Nodes, Terms, disagreement

_HELLO_SECONDS = 2.0  # a connection that says nothing for so long is not a launcher's
_PAUSE_SECONDS = 0.3  # between attempts to connect


@dataclass(frozen=True)
class Peer:
    """Another node's launcher."""

    node: int
    name: str  # as in "node 1 (host, address)"
    channel: Channel


@dataclass(frozen=True)
class Party:
    """The launchers of a job, once all have come: the others that this one talks to, and its own name."""

    name: str
    peers: list[Peer]

    def close(self) -> None:
        """End the conversation."""
        for peer in self.peers:
            peer.channel.close()


def meet(nodes: Nodes, terms: Terms) -> Party:
    """Wait for the other launchers of the job; on node 0 that is all of them, elsewhere node 0.

    Raises:
        ValueError: a node did not come in time, came twice, or is about to run something else.
    """
    terms = {"--nnodes": str(nodes.nnodes), "--nproc-per-node": str(nodes.nproc_per_node or ""), **terms}
    hello = Hello(node=nodes.node_rank, host=socket.gethostname()[:255], token=secrets.token_hex(8), terms=terms)
    return _Host(nodes, hello).gather() if nodes.node_rank == 0 else _visit(nodes, hello)


class _Host:
    """Node 0, while it waits for the others."""

    def __init__(self, nodes: Nodes, hello: Hello) -> None:
        self._nodes, self._hello = nodes, hello
        self._name = _name(0, hello.host, nodes.master_addr)
        self._guests: dict[int, tuple[Peer, Hello]] = {}
        self._deadline = time.monotonic() + nodes.start_timeout_seconds

    def gather(self) -> Party:
        """All the others."""
        # no machine answers for an address of its own but this one; elsewhere, another may be node 0 too
        rival = _Rival(self._nodes, self._hello, is_settled=_is_own(self._nodes.master_addr))
        try:
            with _listening(self._nodes) as listener, contextlib.closing(rival):
                while not self._all_are_here():
                    self._receive(listener)
                    for peer, _ in self._guests.values():
                        peer.channel.send(Message(alive=True))
                    rival.check()
        except BaseException as error:
            self._dismiss(str(error) if isinstance(error, ValueError) else f"{self._name} was interrupted")
            raise
        party = Party(self._name, [peer for peer, _ in self._guests.values()])
        for peer in party.peers:
            peer.channel.send(Message(welcome=True))
        return party

    def _all_are_here(self) -> bool:
        self._forget_the_gone()
        return len(self._guests) == self._nodes.nnodes - 1

    def _forget_the_gone(self) -> None:
        """A node that was ended while it waited may be started again."""
        for node, (peer, _) in list(self._guests.items()):
            if peer.channel.has_ended():
                peer.channel.close()
                del self._guests[node]

    def _receive(self, listener: socket.socket) -> None:
        if time.monotonic() > self._deadline:
            missing = [str(node) for node in range(1, self._nodes.nnodes) if node not in self._guests]
            raise ValueError(
                f"node {', '.join(missing)} did not come to {_place(self._nodes)} within "
                f"{self._nodes.start_timeout_seconds:g} s: it was not started, or with another --master-addr or "
                "--master-port, or a firewall is between"
            )
        if not wait([listener], _PAUSE_SECONDS):
            return
        channel = Channel(listener.accept()[0])
        hello = _hello(channel)
        self._forget_the_gone()
        if hello is None or hello.token == self._hello.token:
            channel.close()
            return
        self._admit(hello, channel)

    def _admit(self, hello: Hello, channel: Channel) -> None:
        name = _name(hello.node, hello.host, channel.address)
        complaint = self._complaint(hello, name)
        if complaint is not None:
            channel.send(Message(refused=complaint))
            channel.close()
            raise ValueError(complaint)
        self._guests[hello.node] = Peer(hello.node, name, channel), hello
        channel.send(Message(heard=self._hello.host))

    def _complaint(self, hello: Hello, name: str) -> str | None:
        here = self._guests.get(hello.node)
        if hello.node == 0 or here is not None:
            other = self._name if here is None else here[0].name
            return (
                f"--node-rank {hello.node} was given twice: to {other} and to {name}; "
                f"number the nodes from 0 to {self._nodes.nnodes - 1}"
            )
        return disagreement([(self._name, self._hello.terms), (name, hello.terms)])

    def _dismiss(self, why: str) -> None:
        for peer, _ in self._guests.values():
            peer.channel.send(Message(refused=why))
            peer.channel.close()


class _Rival:
    """Asks, from node 0, whether another machine answers as node 0 at the job's address.

    The address may also be this machine's by translation: then the answer is our own, and there is no other.
    """

    def __init__(self, nodes: Nodes, hello: Hello, is_settled: bool) -> None:
        self._nodes, self._hello = nodes, hello
        self._channel: Channel | None = None
        self._is_settled = is_settled

    def check(self) -> None:
        """Take one more look, without waiting for long."""
        if self._is_settled:
            return
        if self._channel is None:
            self._channel, _ = _connected(self._nodes, self._hello)
            return
        if not wait([self._channel.fileno()], 0):
            return
        try:
            messages = self._channel.read()
        except (EOFError, ProtocolError):
            self._is_settled = True  # ourselves, or no launcher
            return
        for message in messages:
            if message.refused:
                raise ValueError(message.refused)

    def close(self) -> None:
        """Ask no more."""
        if self._channel is not None:
            self._channel.close()


def _visit(nodes: Nodes, hello: Hello) -> Party:
    """Any other node: ask node 0 for as long as it may take to be started."""
    deadline = time.monotonic() + nodes.start_timeout_seconds
    while True:
        channel, problem = _connected(nodes, hello)
        if channel is not None:
            try:
                host = _welcomed(channel, nodes)
            except BaseException:
                channel.close()
                raise
            if host:
                return Party(_name(nodes.node_rank, hello.host, channel.own_address), [Peer(0, host, channel)])
            channel.close()
            problem = "what answers is no launcher of this program"
        if time.monotonic() > deadline:
            raise ValueError(
                f"node {nodes.node_rank} found no node 0 at {_place(nodes)} within {nodes.start_timeout_seconds:g} s "
                f"({problem}): node 0 was not started, or --master-addr or --master-port differ"
            )
        time.sleep(_PAUSE_SECONDS)


def _welcomed(channel: Channel, nodes: Nodes) -> str:
    """Node 0's host once all nodes are there, for however long it waits; empty where no node 0 answers.

    Raises:
        ValueError: node 0 says that there is no job, or ends, or says no more.
    """
    name = ""
    while wait([channel.fileno()], SILENCE_SECONDS if name else _HELLO_SECONDS):
        try:
            messages = channel.read()
        except ProtocolError:
            return ""
        except EOFError:
            if not name:
                return ""
            raise ValueError(f"{name} ended before all nodes were there; start it again") from None
        for message in messages:
            if message.refused:
                raise ValueError(message.refused)
            if message.heard:
                name = _name(0, message.heard, nodes.master_addr)
            if message.welcome:
                return name
    if name:
        raise ValueError(f"{name} says no more: the network is cut, or it has stopped")
    return ""


def _hello(channel: Channel) -> Hello | None:
    """What a launcher says first; None where no launcher is at the other end."""
    limit = time.monotonic() + _HELLO_SECONDS
    while wait([channel.fileno()], max(0.0, limit - time.monotonic())):
        try:
            messages = channel.read()
        except (EOFError, ProtocolError):
            return None
        if messages:
            return messages[0].hello
    return None


def _connected(nodes: Nodes, hello: Hello) -> tuple[Channel | None, str]:
    """A connection on which our hello was said, or why there is none."""
    try:
        connection = socket.create_connection((nodes.master_addr, nodes.master_port), timeout=_HELLO_SECONDS)
    except OSError as error:
        return None, error.strerror or str(error)
    channel = Channel(connection)
    channel.send(Message(hello=hello))
    return channel, ""


@contextlib.contextmanager
def _listening(nodes: Nodes) -> Iterator[socket.socket]:
    try:
        listener = listening(nodes.master_addr, nodes.master_port, is_one_machine=nodes.nnodes == 1)
    except OSError as error:
        raise ValueError(
            f"port {nodes.master_port} cannot be used ({error.strerror}); choose another --master-port"
        ) from None
    with listener:
        yield listener


def _is_own(address: str) -> bool:
    """Whether the address is one of this machine's own."""
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(resolved)
    except OSError:
        return False
    return True


def _name(node: int, host: str, address: str) -> str:
    return f"node {node} ({host}, {address.removeprefix('::ffff:')})"  # how dual sockets write an IPv4 address


def _place(nodes: Nodes) -> str:
    return f"{nodes.master_addr} port {nodes.master_port}"

"""Launchers of several nodes: they meet or say why not, and know of each other's failures. On one machine, no root."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from grok1.config.load import load_recipe
from grok1.distributed.channel import MAX_LINE_BYTES, Channel, Message, ProtocolError
from grok1.distributed.failure import Failure, cause
from grok1.distributed.link import NodeLink
from grok1.distributed.meeting import Party, meet
from grok1.distributed.nodes import Nodes, Terms, code_hash, common_terms, disagreement
from grok1.distributed.rendezvous import Rendezvous
from tests.grok1.conftest import ROOT, TWO_RANKS
from tests.limits import HANG_SECONDS

TERMS = {"recipe": "grok1-nano 1234", "code": "a"}


@pytest.fixture
def nodes() -> Nodes:
    """Two nodes on this machine, with a port that is free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return Nodes(nnodes=2, master_port=probe.getsockname()[1], start_timeout_seconds=HANG_SECONDS)


class Meetings:
    """Launchers that meet, each in a thread."""

    def __init__(self, pool: ThreadPoolExecutor, made: contextlib.ExitStack) -> None:
        self._pool, self._made = pool, made

    def start(self, nodes: Nodes, terms: Terms = TERMS) -> Future[Party]:
        return self._pool.submit(meet, nodes, terms)

    def party(self, meeting: Future[Party]) -> Party:
        party = meeting.result(HANG_SECONDS)
        self._made.callback(party.close)
        return party

    def both(self, nodes: Nodes) -> list[Party]:
        meetings = [self.start(replace(nodes, node_rank=rank)) for rank in (0, 1)]
        return [self.party(meeting) for meeting in meetings]


@pytest.fixture
def at_once() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def meetings(at_once: ThreadPoolExecutor) -> Iterator[Meetings]:
    with contextlib.ExitStack() as made:
        yield Meetings(at_once, made)


def _complaint(meeting: Future[Party]) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        meeting.result(HANG_SECONDS)
    return str(caught.value)


# ---- meeting -----------------------------------------------------------------------------------------------


def test_nodes_meet_in_whatever_order_they_come(nodes: Nodes, meetings: Meetings) -> None:
    second = meetings.start(replace(nodes, node_rank=1))
    time.sleep(0.5)
    first = meetings.start(nodes)
    (to_second,), (to_first,) = meetings.party(first).peers, meetings.party(second).peers
    host = socket.gethostname()
    assert (to_second.name, to_first.name) == (f"node 1 ({host}, 127.0.0.1)", f"node 0 ({host}, 127.0.0.1)")
    with socket.create_server(("", nodes.master_port)):
        pass  # free again for rank 0, though the launchers' connection stays
    assert to_first.channel.send(Message(alive=True))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"recipe": "grok1-tiny 5678"},
            r"node 1 \(.*\) has recipe grok1-tiny 5678, node 0 \(.*\) has grok1-nano 1234; ty",
        ),
        ({"code": "b"}, r"node 1 .* has code b, node 0 .* has a; check out the same commit on every node"),
    ],
)
def test_nodes_that_run_something_else_are_refused_with_one_line_on_both(
    nodes: Nodes, meetings: Meetings, changed: dict[str, str], complaint: str
) -> None:
    both = meetings.start(nodes), meetings.start(replace(nodes, node_rank=1), TERMS | changed)
    said = [_complaint(meeting) for meeting in both]
    assert said[0] == said[1]
    assert re.match(complaint, said[0]), said[0]


def _terms(*overrides: str) -> Terms:
    return common_terms(load_recipe("grok1-nano", overrides), "cpu")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["training.seed=7"], "b has training.seed 7, a has 1234; "),
        (
            ["training.adam_beta2=0.9", "training.router_dtype=model", "model.ffn_hidden_size=128"],
            "b has model.ffn_hidden_size 128 and training.router_dtype model and training.adam_beta2 0.9, a has ",
        ),
        (["training.recompute=full"], "b has training.recompute full, a has none; "),
    ],
)
def test_values_of_a_recipe_that_differ_are_named_with_both(overrides: list[str], complaint: str) -> None:
    """As --set names them; two ranks of each node."""
    nodes = [("a", _terms()), ("a", _terms()), ("b", _terms(*overrides)), ("b", _terms(*overrides))]
    said = disagreement(nodes)
    assert said is not None
    assert said.startswith(complaint)


def test_of_many_values_that_differ_the_first_are_named_and_the_others_counted() -> None:
    said = disagreement([("a", _terms()), ("b", common_terms(load_recipe("grok1-40b", []), "cpu"))])
    assert said is not None
    assert said.startswith("b has recipe grok1-40b, a has grok1-nano; ")
    twelve = {f"model.value{number}": "1" for number in range(12)}
    assert disagreement([("a", twelve), ("b", dict.fromkeys(twelve, "2"))]) == (
        "b has model.value0 2 and model.value1 2 and model.value2 2 and model.value3 2, a has 1 and 1 and 1 and 1, "
        "and 8 more values differ; type the same command on every node, but for the node's own rank"
    )


def test_a_node_that_does_not_come_is_named(nodes: Nodes) -> None:
    with pytest.raises(ValueError, match=r"^node 1, 2 did not come to 127.0.0.1 port \d+ within 0.5 s: it was not"):
        meet(replace(nodes, nnodes=3, start_timeout_seconds=0.5), TERMS)


def test_a_node_that_finds_no_node_0_says_where_it_looked(nodes: Nodes) -> None:
    with pytest.raises(
        ValueError, match=r"^node 1 found no node 0 at 127.0.0.1 port \d+ within 0.5 s \(Connection ref"
    ):
        meet(replace(nodes, node_rank=1, start_timeout_seconds=0.5), TERMS)


def test_a_rank_given_twice_is_refused_everywhere(nodes: Nodes, meetings: Meetings) -> None:
    three = [meetings.start(replace(nodes, nnodes=3, node_rank=rank)) for rank in (0, 1, 1)]
    said = {_complaint(meeting) for meeting in three}
    assert len(said) == 1
    assert "--node-rank 1 was given twice: to node 1 (" in said.pop()


def test_a_node_that_was_ended_and_started_again_is_welcome(nodes: Nodes, meetings: Meetings) -> None:
    first = meetings.start(replace(nodes, nnodes=3))
    assert _listens(nodes)
    with socket.create_connection(("127.0.0.1", nodes.master_port)) as it:
        hello = '{"hello": {"node": 1, "host": "x", "token": "t", "terms": {"recipe": "grok1-nano 1234"}}}\n'
        it.sendall(hello.encode())
        assert b"heard" in it.recv(1000)
    later = [meetings.start(replace(nodes, nnodes=3, node_rank=rank)) for rank in (1, 2)]
    assert [len(meetings.party(meeting).peers) for meeting in (first, *later)] == [2, 1, 1]


def _listens(nodes: Nodes) -> bool:
    """Wait for node 0."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", nodes.master_port)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[" * 3 * MAX_LINE_BYTES, b'{"alive": 1, "x": 2}\n']
)
def test_a_stranger_at_the_port_disturbs_nobody(nodes: Nodes, meetings: Meetings, words: bytes) -> None:
    first = meetings.start(nodes)
    assert _listens(nodes)
    with socket.create_connection(("127.0.0.1", nodes.master_port)) as stranger, contextlib.suppress(OSError):
        stranger.sendall(words)
        assert stranger.recv(1000) == b""
    second = meetings.start(replace(nodes, node_rank=1))
    assert len(meetings.party(first).peers) == len(meetings.party(second).peers) == 1


def _answer_as_another_program(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"SSH-2.0-x\r\n")


def test_something_else_at_the_port_is_called_so(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grok1.distributed.meeting._HELLO_SECONDS", 0.5)  # it answers once, and is asked again
    with socket.create_server(("127.0.0.1", nodes.master_port)) as server:
        threading.Thread(target=_answer_as_another_program, args=(server,), daemon=True).start()
        with pytest.raises(ValueError, match="what answers is no launcher of this program"):
            meet(replace(nodes, node_rank=1, start_timeout_seconds=1.0), TERMS)


# ---- what nodes must have in common ------------------------------------------------------------------------


def test_what_a_node_does_not_know_is_not_compared() -> None:
    assert disagreement([("a", {"commit": "1"}), ("b", {"commit": ""}), ("c", {})]) is None
    assert disagreement([("a", {"commit": ""}), ("b", {"commit": "1"}), ("c", {"commit": "2"})]) == (
        "c has commit 2, b has 1; check out the same commit on every node"
    )


def test_the_hash_of_the_code_follows_every_source_and_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    hashes = [code_hash.__wrapped__(tmp_path)]
    (tmp_path / "a.py").write_text("x = 2")
    hashes.append(code_hash.__wrapped__(tmp_path))
    (tmp_path / "b.toml").write_text("")
    hashes.append(code_hash.__wrapped__(tmp_path))
    (tmp_path / "a.pyc").write_text("")
    hashes.append(code_hash.__wrapped__(tmp_path))
    assert len(set(hashes)) == 3
    assert hashes[2] == hashes[3]


# ---- failures ----------------------------------------------------------------------------------------------

GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:37361"


def test_the_cause_is_a_death_or_an_error_of_a_ranks_own_not_what_followed() -> None:
    followed = Failure(kind="error", when=1.0, rank=0, details=GLOO)
    own = Failure(kind="error", when=2.0, rank=9, details="ValueError: x")
    died = Failure(kind="died", when=3.0, rank=8, details="was killed")
    lost = Failure(kind="lost", when=0.5, node="node 1 (b, 2)", details="has gone")
    assert cause([followed, own]) is own
    assert cause([followed, own, died]) is died
    assert cause([followed, lost]) is lost
    assert cause([lost, own]) is own
    assert cause([own.model_copy(update={"when": 4.0}), own]) is own


def test_a_failures_line_names_rank_node_and_cause() -> None:
    failure = Failure(kind="error", when=0.0, rank=9, node="node 1 (b, 2)", details="Traceback\n  x\nKeyError: 'y'\n")
    assert failure.line() == "rank 9 on node 1 (b, 2) failed: KeyError: 'y'"
    assert failure.model_copy(update={"rank": None, "details": "has gone"}).line() == "node 1 (b, 2) has gone"


@pytest.fixture
def links(nodes: Nodes, meetings: Meetings) -> Iterator[list[NodeLink]]:
    """Both ends of a job of two nodes."""
    made = [NodeLink(rank, party) for rank, party in enumerate(meetings.both(nodes))]
    yield made
    for link in made:
        link.close()


def test_both_nodes_agree_on_the_cause_whoever_reports_first(
    links: list[NodeLink], at_once: ThreadPoolExecutor
) -> None:
    followed = Failure(kind="error", when=1.0, rank=0, node=links[0].name, details=GLOO)
    died = Failure(kind="died", when=9.0, rank=8, node=links[1].name, details="was killed")
    agreed = [at_once.submit(link.agreed, failure) for link, failure in zip(links, (followed, died), strict=True)]
    assert [each.result(HANG_SECONDS) for each in agreed] == [died, died]


def test_a_job_is_done_only_when_all_nodes_are(links: list[NodeLink], at_once: ThreadPoolExecutor) -> None:
    first = at_once.submit(links[0].all_done)
    time.sleep(0.3)
    assert not first.done()
    assert links[1].all_done() == []
    second = at_once.submit(links[1].all_ended)
    assert first.result(HANG_SECONDS) == []
    time.sleep(0.3)
    assert not second.done()
    assert links[0].all_ended() == second.result(HANG_SECONDS) == []


def test_a_launcher_that_ends_without_a_word_is_lost(nodes: Nodes, meetings: Meetings) -> None:
    first, second = meetings.both(nodes)
    link = NodeLink(0, first)
    second.close()
    (failure,) = link.all_done()
    link.close()
    assert failure.line() == f"{first.peers[0].name} has gone: its launcher ended without a word"


def test_a_launcher_that_is_not_heard_is_lost(
    nodes: Nodes, meetings: Meetings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grok1.distributed.link.SILENCE_SECONDS", 0.5)
    first, _ = meetings.both(nodes)
    link = NodeLink(0, first)
    (failure,) = link.all_done()
    link.close()
    assert "was not heard for 0.5 s: the network is cut" in failure.line()


@pytest.mark.parametrize("words", [b"x" * 2 * MAX_LINE_BYTES, b"[" * 60_000, b'{"done": "yes"}', b'{"other": 1}'])
def test_a_line_that_is_too_long_or_no_message_is_refused(words: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        threading.Thread(target=theirs.sendall, args=(words + b"\n",), daemon=True).start()
        with pytest.raises(ProtocolError):
            _read_until_it_raises(channel)


def _read_until_it_raises(channel: Channel) -> None:
    for _ in range(1000):
        channel.read()


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "cause"), [("raise", "the sky fell on rank one"), ("die", "killed by signal 9")])
def test_a_rank_that_fails_on_one_node_ends_both_and_both_name_it(nodes: Nodes, entry: str, cause: str) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from grok1.config.load import load_recipe
        from grok1.distributed.launch import launch
        from grok1.distributed.nodes import Nodes

        if __name__ == "__main__":
            entry = "tests.grok1.distributed.rank_entries:{entry}_on_rank_one"
            nodes = Nodes(nnodes=2, node_rank=int(sys.argv[1]), master_port={nodes.master_port})
            try:
                launch(None, load_recipe("grok1-nano", {TWO_RANKS!r}), "cpu", nodes, entry=entry)
            except RuntimeError as error:
                print(str(error).splitlines()[0])
        """
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in (0, 1)
    ]
    said = [run.communicate(timeout=HANG_SECONDS)[0] for run in runs]
    assert said[0] == said[1]
    assert said[0].startswith(f"rank 1 on node 1 ({socket.gethostname()}, 127.0.0.1) failed: ")
    assert cause in said[0]


def test_the_interface_towards_rank_0_is_found() -> None:
    def interface(url: str) -> str | None:
        return Rendezvous(url, 0, 2, 0, 1).interface()

    assert interface("tcp://127.0.0.1:29500") == "lo"
    assert interface("tcp://no-such-host.invalid:1") is None
    assert interface("fake://") is None

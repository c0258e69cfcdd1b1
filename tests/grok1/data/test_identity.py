"""Which text a corpus holds: seen in every byte, read once, and read again after every change."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grok1.config.load import load_recipe
from grok1.data import identity
from grok1.data.identity import corpus_digest
from grok1.data.indexed import IndexedWriter, indexed_path
from grok1.distributed.nodes import disagreement
from grok1.training.job import prepare

TOKENS = 3000  # of two bytes: several chunks, as they are set below


def write_corpus(folder: Path, first: int = 0) -> Path:
    with IndexedWriter(folder / "data", 512) as writer:
        for _ in range(3):
            writer.add_document(array("i", [(first + each) % 500 for each in range(TOKENS // 3)]))
    return folder / "data"


def age(prefix: Path) -> None:
    """As if it had been written long ago: the times that a tool can set, and what the kernel sets with them."""
    for suffix in (".bin", ".idx"):
        os.utime(indexed_path(prefix, suffix), (1, 1))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(identity, "_BLOCK_BYTES", 300)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The corpora that were read in full."""
    read: list[Path] = []
    digest = identity._digest

    def counted(prefix: Path) -> str:
        read.append(prefix)
        return digest(prefix)

    monkeypatch.setattr(identity, "_digest", counted)
    return read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(where=st.integers(0, 2 * TOKENS - 1))
def test_one_changed_byte_anywhere_changes_the_digest(tmp_path: Path, where: int) -> None:
    prefix = write_corpus(tmp_path)
    before = corpus_digest(prefix)
    path = indexed_path(prefix, ".bin")
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    assert corpus_digest(prefix) != before


def test_the_same_files_elsewhere_have_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert corpus_digest(write_corpus(tmp_path / "a")) == corpus_digest(write_corpus(tmp_path / "b"))


def test_a_corpus_is_read_once(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_SETTLED_SECONDS", -10.0)
    (tmp_path / "file").touch()
    prefix, folders = write_corpus(tmp_path), [tmp_path / "file" / "memo", tmp_path / "memo"]
    assert corpus_digest(prefix, folders) == corpus_digest(prefix, folders)
    assert len(reads) == 1


def test_a_text_of_equal_lengths_and_times_is_read_again(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_SETTLED_SECONDS", -10.0)
    prefix = write_corpus(tmp_path)
    age(prefix)
    before = corpus_digest(prefix, [tmp_path])
    with indexed_path(prefix, ".bin").open("r+b") as stream:  # in place: the same inode
        stream.write(b"\1")
    age(prefix)
    assert corpus_digest(prefix, [tmp_path]) != before
    assert len(reads) == 2


def test_files_written_a_moment_ago_are_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    prefix = write_corpus(tmp_path)
    assert corpus_digest(prefix, [tmp_path]) == corpus_digest(prefix, [tmp_path])
    assert len(reads) == 2


@pytest.mark.parametrize("memo", [b"", b"{", b"[]", b'{"digest": "../../x"}', b"\xff", b"[" * 100_000])
def test_a_damaged_memo_is_no_memo(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, memo: bytes
) -> None:
    monkeypatch.setattr(identity, "_SETTLED_SECONDS", -10.0)
    prefix = write_corpus(tmp_path)
    digest = corpus_digest(prefix, [tmp_path])
    identity._memo(prefix, tmp_path).write_bytes(memo)
    assert corpus_digest(prefix, [tmp_path]) == digest
    assert len(reads) == 2


def test_a_memo_that_is_no_digest_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_SETTLED_SECONDS", -10.0)
    prefix = write_corpus(tmp_path)
    digest = corpus_digest(prefix, [tmp_path])
    memo = identity._memo(prefix, tmp_path)
    memo.write_text(memo.read_text().replace(digest, "../../../outside"))
    assert corpus_digest(prefix, [tmp_path]) == digest


def test_folders_that_cannot_be_written_only_cost_another_reading(tmp_path: Path, reads: list[Path]) -> None:
    prefix = write_corpus(tmp_path)
    (tmp_path / "file").touch()
    assert corpus_digest(prefix, [tmp_path / "file" / "memo"]) == corpus_digest(prefix)
    assert len(reads) == 2


@pytest.mark.slow
def test_a_tokenizer_is_known_by_the_content_of_its_files_and_nodes_compare_it(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    prefix, tokenizer = corpus
    recipe = load_recipe("grok1-nano")
    (tmp_path / "copy.model").write_bytes(tokenizer.read_bytes())
    (tmp_path / "other.model").write_bytes(tokenizer.read_bytes() + b"\xfa\x3f\x01x")  # a field that nobody reads
    jobs = [prepare(recipe, 1, prefix, each) for each in (tokenizer, tmp_path / "copy.model", tmp_path / "other.model")]
    told = [disagreement([("a", jobs[0].terms()), ("b", job.terms())]) for job in jobs]
    assert told[:2] == [None, None]
    assert told[2] == (
        f"b has tokenizer {jobs[2].tokenizer_digest}, a has {jobs[0].tokenizer_digest}; copy the same tokenizer to "
        "every node, or give --tokenizer"
    )
